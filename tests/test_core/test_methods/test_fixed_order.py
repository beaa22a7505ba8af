# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Orders of channels, down to the budget in steps."""

import pytest
import torch

from mmlapp.core import attach
from mmlapp.core.methods.fixed_order import rank_in_group


@pytest.mark.parametrize('method', ['uniform', 'random', 'ranking'])
def test_the_cost_follows_the_schedule(model, images, method):
    pruner = attach(model, images, method=method)
    pruner.begin({'flops': 0.5}, 10)
    for _ in range(9):
        pruner.step()
        target = pruner.targets()['flops']
        assert target - 0.12 < pruner.ratios()['flops'] <= target
    pruner.step()
    assert 0.48 < pruner.ratios()['flops'] <= 0.5


@pytest.mark.parametrize('method', ['uniform', 'random', 'ranking'])
def test_masks_ask_for_no_gradient(model, images, method):
    pruner = attach(model, images, method=method)
    pruner.begin({'flops': 0.5}, 4)
    model(images).sum().backward()
    assert pruner.gate.grad is None


def test_ranks_within_each_group(model, images):
    """(rank + 1/2) / N, whatever the scores of other groups are."""
    pruner = attach(model, images, normalisation='mean', method='uniform')
    pruner.begin({'flops': 0.9}, 2)
    for scores, ranks in zip(
        pruner.scores.split(pruner.sizes),
        rank_in_group(pruner).split(pruner.sizes),
        strict=True,
    ):
        assert ranks.argsort().tolist() == scores.argsort().tolist()
        steps = torch.arange(len(scores)) + 0.5
        torch.testing.assert_close(ranks.sort().values, steps / len(scores))
