# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Weights of a pruning run belong to the branches that they were trained with.

How they reach a model is told in ``test_plans.py``.
"""

import pytest
import torch
from torch import nn

from mmlapp.core import Phase, PruningError
from mmlapp.engine.models.branch_names import refuse_other_branches


class Layer(nn.Module):
    """A layer with a branch of its own."""

    def __init__(self, width: int | None) -> None:
        super().__init__()
        if width:
            self.bypass = nn.Conv2d(width, width, 1, bias=False)


def model(width: int | None) -> nn.Module:
    return nn.Sequential(Layer(width))


def saved(width: int | None, phase: Phase, prefix: str = '') -> dict:
    progress = torch.tensor([float(phase), 0.0, 4.0, 0.5])
    state = {**model(width).state_dict(), 'pruner.progress': progress}
    return {f'{prefix}{name}': value for name, value in state.items()}


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('phase', list(Phase))
@pytest.mark.parametrize('width', [None, 2])
def test_the_same_branches_pass(width, phase, prefix):
    state = saved(width, phase, prefix)
    refuse_other_branches(model(width), state, prefix)


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize(
    ('found', 'own', 'phases'),
    [
        (2, None, list(Phase)),
        (2, 3, list(Phase)),
        # Before the phase they may be new ones.
        (None, 2, [Phase.PRUNING, Phase.FINISHED]),
    ],
)
def test_others_are_named(found, own, phases, prefix):
    for phase in Phase:
        state = saved(found, phase, prefix)
        if phase not in phases:
            refuse_other_branches(model(own), state, prefix)
            continue
        with pytest.raises(PruningError, match=r'0\.bypass\.weight has sha'):
            refuse_other_branches(model(own), state, prefix)


def test_weights_that_know_of_no_pruning_are_left_to_mmengine():
    refuse_other_branches(model(None), model(2).state_dict(), '')
    refuse_other_branches(model(2), model(None).state_dict(), '')
