# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is known of schedulers, hooks and loops."""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmlapp.engine.lengthening.entries import (
    class_of,
    roles_of,
    stretch_entry,
)
from mmlapp.engine.lengthening.stretch import Stretch
from mmlapp.engine.lengthening.tables import HOOKS, LOOPS, SCHEDULERS
from mmlapp.registry import HOOKS as OUR_HOOKS

OLD, NEW = 10, 16
PLACES = {
    'hooks': HOOKS,
    'runner': LOOPS,
    'optim/scheduler': SCHEDULERS,
    'engine/hooks': HOOKS,
    'engine/schedulers': SCHEDULERS,
}


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Where the packages keep such classes, unimported."""
    for package in ('mmengine', 'mmdet', 'mmpretrain'):
        found = find_spec(package)
        assert found is not None
        assert found.origin is not None
        for place in PLACES:
            folder = Path(found.origin).parent / place
            for path in sorted(folder.glob('*.py')):
                for node in ast.parse(path.read_text()).body:
                    if isinstance(node, ast.ClassDef):
                        yield place, node


def arguments(node: ast.ClassDef) -> set[str]:
    return {
        argument.arg
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name == '__init__'
        for argument in [*item.args.args, *item.args.kwonlyargs]
    }


def test_every_hook_of_this_package_has_a_row() -> None:
    OUR_HOOKS.import_from_location()
    assert set(OUR_HOOKS.module_dict) <= set(HOOKS)


def test_every_hook_of_the_packages_has_a_row() -> None:
    names = {
        node.name
        for place, node in classes()
        if place.endswith('hooks') and node.name.endswith('Hook')
    }
    assert len(names) > 30
    assert names - {'Hook'} - HOOKS.keys() == set()


def test_rows_name_arguments_of_their_classes() -> None:
    checked = set()
    for place, node in classes():
        row = PLACES[place].get(node.name, {})
        if row and node.name != 'BaseLoop':  # each of its own
            assert row.keys() <= arguments(node) | {'val_begin'}, node.name
            checked.add(node.name)
    known = {name for table in PLACES.values() for name in table}
    rows = {n for t in PLACES.values() for n, row in t.items() if row}
    assert checked == (rows & known) - {'BaseLoop'}


@pytest.mark.parametrize(
    'entry',
    [
        dict(type='ConstantLR', factor=0.5, end=4),
        dict(type='LinearLR', start_factor=0.1, end=3),
        dict(type='LinearLR', start_factor=1.0, end_factor=0.1, end=OLD),
        dict(type='MultiStepLR', milestones=[5, 8]),
        dict(type='MultiStepLR', milestones=[2, 5], begin=3),
        dict(type='OneCycleLR', eta_max=0.5, total_steps=OLD, end=OLD),
        dict(type='PolyLR', power=0.9, end=OLD),
        dict(type='PolyLR', power=2, begin=2, end=6),
        dict(type='StepLR', step_size=3),
        dict(type='StepLR', step_size=1, gamma=0.9),
    ],
    ids=lambda entry: '-'.join(map(str, entry.values())),
)
def test_the_last_rate_is_that_of_the_dense_recipe(
    entry: dict[str, Any],
) -> None:
    found = rates(stretched(entry, NEW), NEW)
    assert found[-1] == pytest.approx(rates(entry, OLD)[-1])


@pytest.mark.parametrize(
    'entry',
    [
        dict(type='CosineAnnealingLR', T_max=OLD),
        dict(type='CosineAnnealingLR', T_max=7, begin=3, end=OLD),
        dict(type='CosineAnnealingLR', eta_min=0.1),
        dict(
            type='CosineRestartLR',
            periods=[4, 6],
            restart_weights=[1, 0.5],
            eta_min=0.01,
        ),
        dict(type='ExponentialLR', gamma=0.7),
    ],
    ids=lambda entry: '-'.join(map(str, entry.values())),
)
def test_a_curve_is_the_same_twice_as_fine(entry: dict[str, Any]) -> None:
    found = rates(stretched(entry, 2 * OLD), 2 * OLD)
    assert found[::2] == pytest.approx(rates(entry, OLD))


def stretched(entry: dict[str, Any], epochs: int) -> dict[str, Any]:
    kind = class_of(entry, PARAM_SCHEDULERS)
    assert kind is not None
    longer = dict(entry)
    assert stretch_entry(Stretch(OLD, epochs), longer, kind, SCHEDULERS) == []
    return longer


def rates(entry: dict[str, Any], epochs: int) -> list[float]:
    """Those of every epoch of a run."""
    weight = nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.SGD([weight], lr=1.0, momentum=0.9))
    scheduler = PARAM_SCHEDULERS.build(
        {'end': epochs, **entry}, default_args=dict(optimizer=wrapper)
    )
    found = []
    for _ in range(epochs):
        found.append(wrapper.get_lr()['lr'][0])
        wrapper.step()
        scheduler.step()
    return found


def test_subclasses_inherit() -> None:
    class Mine(PARAM_SCHEDULERS.get('MultiStepLR')):  # type: ignore[misc]
        def __init__(self, *args: Any, extra: int = 1, **kw: Any) -> None:
            pass

    roles = roles_of(Mine, SCHEDULERS)
    assert sorted(roles) == ['begin', 'end', 'last_step', 'milestones']
    entry = dict(type=Mine, milestones=[5], extra=7)
    found = stretch_entry(Stretch(OLD, NEW), entry, Mine, SCHEDULERS)
    assert entry['milestones'] == [8]
    assert found == ['extra=7']
