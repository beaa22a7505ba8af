# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Entries of a config, and what may hold epochs or iterations."""

from typing import Any

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS as REGISTRY
from mmengine.registry import DefaultScope, Registry

from mmlapp.engine.lengthening.entries import (
    class_of,
    defaults_of,
    may_be_time,
    roles_of,
    stretch_entry,
    times_within,
)
from mmlapp.engine.lengthening.stretch import Stretch, last, point
from mmlapp.engine.lengthening.tables import HOOKS

HALF_MORE = Stretch(6, 9)


class Known(Hook):
    """A hook with a row."""

    def __init__(self, start: int = 2, tail: int = 3, size: int = 8) -> None:
        pass


class Derived(Known):
    """One that adds settings of its own."""

    def __init__(self, more: int = 5, warmup_iters: int = 7, **kw: Any):
        pass


TABLE = {'Known': {'start': point, 'tail': last}}


def test_defaults_are_stretched_too() -> None:
    entry: dict[str, Any] = dict(type='Known', tail=2)
    assert stretch_entry(HALF_MORE, entry, Known, TABLE) == []
    assert entry == dict(type='Known', start=3, tail=3)


def test_a_row_of_a_class_overrides_those_of_its_bases() -> None:
    table = {**TABLE, 'Derived': {'tail': point, 'warmup_iters': point}}
    assert roles_of(Derived, table) == {
        'start': point,
        'tail': point,
        'warmup_iters': point,
    }


def test_what_becomes_of_itself_is_not_written() -> None:
    entry: dict[str, Any] = dict(type='Known')
    assert stretch_entry(Stretch(6, 6), entry, Known, TABLE) == []
    assert entry == dict(type='Known')


def test_a_value_of_another_form_is_named_and_stays() -> None:
    entry: dict[str, Any] = dict(type='Known', start=[2], tail=None)
    assert stretch_entry(HALF_MORE, entry, Known, TABLE) == ['start=[2]']
    assert entry == dict(type='Known', start=[2], tail=None)


def test_own_settings_of_a_subclass_are_named() -> None:
    entry: dict[str, Any] = dict(type='Derived', start=4, size=9, priority=49)
    found = stretch_entry(HALF_MORE, entry, Derived, TABLE)
    # `more` is a default whose name says nothing of time.
    assert found == ['warmup_iters=7']
    assert entry['start'] == 6
    assert entry['size'] == 9
    entry['more'] = 6
    found = stretch_entry(HALF_MORE, entry, Derived, TABLE)
    assert found == ['more=6', 'warmup_iters=7']


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('number', 3, True),
        ('number', [3, 4], True),
        ('number', 0.3, False),
        ('number', True, False),
        ('number', 0, False),
        ('number', 'three', False),
        ('initial_epoch', 0.5, True),
        ('burn_in_iters', (100,), True),
        ('iterator', 3, True),
        ('epochs', None, False),
    ],
)
def test_what_may_be_time(name: str, value: Any, expected: bool) -> None:
    assert may_be_time(name, value) == expected


def test_elsewhere_names_have_to_say_so() -> None:
    part = dict(width=8, heads=[dict(iterator=3, initial_epoch=4)])
    assert list(times_within(part, 'model')) == [
        'model.heads[0].initial_epoch=4'
    ]


def test_defaults_of_a_subclass_go_before_those_of_its_base() -> None:
    class Later(Known):
        def __init__(self, start: int = 9, *args: Any) -> None:
            pass

    assert defaults_of(Later) == dict(start=9, tail=3, size=8)


def test_classes() -> None:
    checkpoint = REGISTRY.get('CheckpointHook')
    assert class_of(dict(type='CheckpointHook'), REGISTRY) is checkpoint
    assert class_of(dict(type=Known), REGISTRY) is Known
    assert class_of(dict(type='NoSuchHook'), REGISTRY) is None
    assert class_of(dict(), REGISTRY) is None


def test_packages_have_registries_of_their_own() -> None:
    package = Registry('hook', parent=REGISTRY, scope='package_of_entries')
    package.register_module('Inner', False, Known)
    entry: dict[str, Any] = dict(type='Inner')
    assert class_of(entry, REGISTRY) is None
    with DefaultScope.overwrite_default_scope('package_of_entries'):
        assert class_of(entry, REGISTRY) is Known
    entry['_scope_'] = 'package_of_entries'
    assert class_of(entry, REGISTRY) is Known


def test_hooks_of_detectors() -> None:
    class YOLOXModeSwitchHook(Hook):
        def __init__(self, num_last_epochs: int = 15) -> None:
            pass

    entry: dict[str, Any] = dict(type='YOLOXModeSwitchHook')
    stretch_entry(Stretch(300, 480), entry, YOLOXModeSwitchHook, HOOKS)
    assert entry['num_last_epochs'] == 24


def test_checkpoints_begin_at_a_point() -> None:
    kind = REGISTRY.get('CheckpointHook')
    entry: dict[str, Any] = dict(save_begin=5, interval=2)
    assert stretch_entry(Stretch(10, 16), entry, kind, HOOKS) == []
    assert entry == dict(save_begin=8, interval=2)
