# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError, attach
from mmlapp.core.arguments import (
    check_arguments,
    choose_from,
    defaults_of,
    meant,
    taken_by,
)


class Base:
    def __init__(self, size, width=2, *, flag=False):
        pass


class Passing(Base):
    def __init__(self, depth=1, **kwargs):
        pass


class Inheriting(Passing):
    pass


class Bare:
    pass


class Anything(Bare):
    def __init__(self, depth=1, **kwargs):
        pass


def function(images, target=0.5):
    pass


@pytest.mark.parametrize(
    ('entry', 'names'),
    [
        (Base, ['size', 'width', 'flag']),
        (Passing, ['depth', 'size', 'width', 'flag']),
        (Inheriting, ['depth', 'size', 'width', 'flag']),
        (Bare, []),
        (Anything, None),
        (function, ['images', 'target']),
        (lambda **settings: None, None),
        (torch.add, None),
    ],
)
def test_names_that_are_taken(entry, names):
    assert taken_by(entry) == names


def test_only_what_is_alike_is_meant():
    assert meant('targets', ['target', 'size']) == 'did you mean target?'
    assert meant('colour', ['target', 'size']) == ''
    assert choose_from(['b', 'a']) == 'choose one of: b, a'


@pytest.mark.parametrize(
    ('settings', 'match'),
    [
        (
            dict(targt=2),
            r'^targt=2: f has no such .*mean target\? it takes target$',
        ),
        (dict(colour=2), r'^colour=2: f has no such argument; it takes ta'),
        (dict(images=2), r'^f: multiple values for argument .images'),
    ],
)
def test_arguments_that_are_not_taken(settings, match):
    with pytest.raises(PruningError, match=match):
        check_arguments('f', function, ['images'], settings)
    check_arguments('f', function, ['images'], dict(target=2))


def test_what_tells_no_names_is_asked_itself():
    """As functions of C; they say on their own what they do not take."""
    check_arguments('add', torch.add, [], dict(whatever=1))


def test_what_is_missing_is_named():
    with pytest.raises(PruningError, match=r"f: missing .*'images'; it tak"):
        check_arguments('f', function, [], dict(target=2))


@pytest.mark.parametrize(
    ('settings', 'match'),
    [
        (
            dict(method=dict(type='lapp', updat='gradient')),
            r"updat='gradient': method='lapp' has no .*mean update\?",
        ),
        (
            dict(bypass=dict(type='pointwise', norms=True)),
            r"norms=True: bypass='pointwise' has no .*mean norm\?",
        ),
        (
            dict(score=dict(type='taylor', interval=2)),
            r"interval=2: score='taylor' has no such argument",
        ),
        (
            dict(costs=[dict(type='flops', target=2)]),
            r"target=2: cost='flops' has no .*it takes none",
        ),
    ],
)
def test_settings_of_what_is_chosen_by_name(model, images, settings, match):
    with pytest.raises(PruningError, match=match):
        attach(model, images, **settings)
    assert not hasattr(model, 'pruner')


@pytest.mark.parametrize(
    ('entry', 'defaults'),
    [
        (Base, {'width': 2, 'flag': False}),
        (Passing, {'depth': 1, 'width': 2, 'flag': False}),
        (Inheriting, {'depth': 1, 'width': 2, 'flag': False}),
        (Anything, {'depth': 1}),
        (Bare, {}),
        (function, {'target': 0.5}),
        (dict, {}),  # written in C
    ],
)
def test_defaults_are_those_of_the_call(entry, defaults):
    assert defaults_of(entry) == defaults
