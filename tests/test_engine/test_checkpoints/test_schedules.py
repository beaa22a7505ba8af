# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Settings of schedulers that a state brings along."""

from typing import Any

import pytest
import torch
from mmengine.optim import (
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    OptimWrapper,
    ReduceOnPlateauLR,
)
from torch import nn, optim

from mmlapp.engine.checkpoints.schedules import other_schedules


def optimizer() -> OptimWrapper:
    return OptimWrapper(optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))


@pytest.mark.parametrize(
    ('kind', 'first', 'second', 'told'),
    [
        (LinearLR, dict(end=5), dict(end=9), 'end=5, in the config 9'),
        (
            CosineAnnealingLR,
            dict(T_max=5),
            dict(T_max=9, eta_min=0.01),
            'T_max=5, in the config 9',
        ),
        (
            MultiStepLR,
            dict(milestones=[2]),
            dict(milestones=[3]),
            r'milestones=Counter({2: 1}), in the config Counter({3: 1})',
        ),
        (
            ReduceOnPlateauLR,
            dict(patience=2),
            dict(patience=3),
            'patience=2, in the config 3',
        ),
    ],
)
def test_what_differs_is_told(
    kind: Any, first: Any, second: Any, told: str
) -> None:
    """Where a scheduler stands differs in any case."""
    wrapper = optimizer()
    saved = kind(wrapper, **first)
    for _ in range(3):
        wrapper.step()
        saved.step(*[{'loss': 1.0}] * (kind is ReduceOnPlateauLR))
    state = saved.state_dict()
    assert other_schedules([kind(optimizer(), **first)], [state]) == []
    found = other_schedules([kind(optimizer(), **second)], [state])
    assert found[0] == f'{kind.__name__}: {told}'
    assert len(found) == len(second)


def test_several_optimizers() -> None:
    def build(end: int) -> dict[str, list[Any]]:
        return {name: [LinearLR(optimizer(), end=end)] for name in 'ab'}

    saved = {k: [s.state_dict() for s in v] for k, v in build(5).items()}
    assert other_schedules(build(5), saved) == []
    told = 'LinearLR: end=5, in the config 6'
    assert other_schedules(build(6), saved) == [told, told]
    assert other_schedules(None, saved) == []
