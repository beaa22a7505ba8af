# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The pruning phase as a config says it."""

from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine import equal_cost
from mmlapp.engine.lengthening.phase import PhaseEntry, step_cost_of
from mmlapp.engine.lengthening.stretch import Stretch


@MODELS.register_module()
class ModelOfPhase(BaseModel):
    """Two convolutions."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        )

    def forward(
        self, inputs: Any, data_samples: Any = None, mode: str = 'tensor'
    ) -> Any:
        return self.backbone(inputs)


def phase(unit: str, **hook: Any) -> PhaseEntry:
    return PhaseEntry(dict(target=dict(flops=0.5), train_cost=1, **hook), unit)


@pytest.mark.parametrize(
    ('unit', 'hook', 'end'),
    [
        ('epochs', dict(prune_epochs=2.5), 2.5),
        ('epochs', dict(), 2),
        ('iters', dict(prune_iters=6), 6),
        ('iters', dict(prune_iters=6, begin_iters=3), 9),
        ('epochs', dict(begin_iters=2, epoch_iters=4), 2.5),
        ('epochs', dict(prune_iters=6, begin_iters=4, epoch_iters=4), 2.5),
        ('iters', dict(begin_iters=3, epoch_iters=4), 11),
    ],
)
def test_the_end(unit: str, hook: dict[str, Any], end: float) -> None:
    found = phase(unit, **hook)
    assert found.end == end
    begin = hook.get('begin_iters', 0)
    assert found.begin == (begin / 4 if unit == 'epochs' else begin)


@pytest.mark.parametrize(
    ('hook', 'new', 'begin', 'length'),
    [
        (dict(prune_iters=6), 150, 0, 9),
        (dict(prune_iters=6, begin_iters=3), 150, 4, 9),
        (dict(prune_iters=1, begin_iters=3), 50, 1, 1),
        (dict(prune_iters=1, begin_iters=1), 30, 0, 1),
    ],
)
def test_iterations_are_rounded_down(
    hook: dict[str, Any], new: int, begin: int, length: int
) -> None:
    found = phase('iters', **hook)
    found.stretch(Stretch(100, new))
    assert found.entry.get('begin_iters', 0) == begin
    assert found.entry['prune_iters'] == length
    assert found.entry['dense_length'] == dict(iters=100)


def test_epochs_need_not_be_whole() -> None:
    found = phase('epochs')
    found.stretch(Stretch(200, 318))
    assert found.entry['prune_epochs'] == pytest.approx(3.18)
    assert found.entry['dense_length'] == dict(epochs=200)


def test_a_begin_in_iterations_beside_epochs() -> None:
    found = phase('epochs', begin_iters=5, epoch_iters=4)
    found.stretch(Stretch(6, 9))
    assert found.entry['begin_iters'] == 7
    assert found.entry['prune_epochs'] == pytest.approx(3)
    assert 'prune_iters' not in found.entry


def test_bad_arguments_are_refused_as_by_the_hook() -> None:
    with pytest.raises(PruningError, match='prune_epochs=-1: expected'):
        phase('epochs', prune_epochs=-1)


def test_the_model_is_built_only_to_count_branches() -> None:
    settings = ConfigDict(type='NoSuchModel')
    found = step_cost_of(dict(model=settings), phase('epochs'))
    assert (found.wide, found.narrow) == (1.0, 0.5)


def test_branches_make_a_run_shorter_than_one_without() -> None:
    config = dict(
        model=dict(
            type='mmlapp.PrunableModel',
            architecture='ModelOfPhase',
            input_shape=(3, 8, 8),
            bypass='pointwise',
        ),
        data_preprocessor=dict(type='BaseDataPreprocessor'),
        train_cfg=dict(by_epoch=True, max_epochs=100),
        custom_hooks=[
            dict(
                type='mmlapp.PruningHook',
                target=dict(flops=0.5),
                prune_epochs=30,
                train_cost='dense',
            )
        ],
    )
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    found: Any = equal_cost(config)
    assert torch.equal(torch.rand(1), expected)
    # Beside the first layer, 3 of 11 parts of the network, runs a ninth of
    # it: 30 (1 + 1 / 33) + 70 / 2 = 65.91 of 100; without it 65, and 153.
    assert found['train_cfg']['max_epochs'] == 151
