# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a hook was asked for."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.runner import Runner

from mmlapp.core import PruningError
from mmlapp.engine import PruningHook

MakeRunner = Callable[..., Runner]


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (dict(target=dict(flops=1.2)), r'target flops=1\.2.*\(0, 1\]'),
        (dict(target=dict(flops=0)), 'target flops=0: '),
        (dict(target=0.5), r'target=0\.5.*dict\(flops=0\.5\)'),
        (dict(target=dict(flops=True)), 'target flops=True: '),
        (dict(prune_epochs=0), 'prune_epochs=0: expected a number above 0'),
        (dict(prune_iters=-3), 'prune_iters=-3'),
        (dict(interval=0), 'interval=0'),
        (dict(interval='50'), "interval='50': expected a whole number"),
        (dict(begin_iters=-1), 'begin_iters=-1'),
        (dict(narrow='False'), "narrow='False': expected True or False"),
        (dict(end='settled'), "end='settled' is unknown; choose one of: sta"),
        (dict(end=0.999), r'end=0\.999: expected a name or a dictionary'),
        (
            dict(end=dict(type='stable', similarity=2)),
            'end similarity=2: expected a number above 0 to 1',
        ),
        (dict(end=dict(type='stable', epoch=0)), 'end epoch=0: expected a wh'),
        (
            dict(end=dict(type='stable', epochs=3)),
            'epochs=3: .* no such argument; did you mean epoch',
        ),
        (dict(train_cost='half'), "train_cost='half': expected 'dense', or"),
        (dict(train_cost=1, narrow=False), 'train_cost=1 with narrow=False'),
        (
            dict(train_cost=1, target=dict(parameters=0.5)),
            "train_cost=1 with target={'parameters': 0.5}",
        ),
        (dict(dense_length=dict(epochs=2)), 'without train_cost'),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(PruningError, match=text):
        PruningHook(**arguments)


def test_a_phase_with_a_bound_on_its_cost_is_not_rounded_up() -> None:
    run: Any = SimpleNamespace(train_dataloader=range(4))
    hook = PruningHook(prune_epochs=1.65)
    assert hook.length.iters(run) == 7
    hook = PruningHook(prune_epochs=1.65, train_cost='dense')
    assert hook.length.iters(run) == 6
