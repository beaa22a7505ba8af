# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Targets that cannot be, and those that can."""

import pytest
from pruning_steps import kept_by_group
from torch import nn

from mmlapp.core import Phase, PruningError, attach


@pytest.mark.parametrize('target', [0, -1, 1.5, float('nan')])
def test_targets_outside_their_range(pruner, target):
    with pytest.raises(PruningError, match=r'target flops=.*\(0, 1\]'):
        pruner.begin({'flops': target}, 10)
    assert pruner.phase == Phase.DENSE


def test_a_target_below_the_reachable_minimum(pruner):
    """One channel in each of a, b and c."""
    positions = 4 * 8 * 8
    lowest = 9 * positions * (3 + 1 + 1 + 5) / pruner.cost('flops').dense
    with pytest.raises(
        PruningError, match=f'minimum of {lowest:.4f}.*Raise the target'
    ):
        pruner.begin({'flops': lowest * 0.9}, 10)
    assert pruner.phase == Phase.DENSE
    pruner.begin({'flops': lowest * 1.0001}, 10)
    pruner.finish()
    assert kept_by_group(pruner) == [1, 1, 1]


def test_a_target_out_of_reach_tells_what_is_left_whole(conv, images):
    model = nn.Sequential(conv(3, 8), conv(8, 6), conv(6, 4))
    pruner = attach(model, images, ignore='0')
    reasons = (
        r'not prunable \(8 channels such as those of 0: .*ignore.*; '
        r'4 channels such as those of 2: output of the network\) or to'
    )
    with pytest.raises(PruningError, match=reasons):
        pruner.begin({'flops': 0.01}, 10)


def test_the_minimum_with_a_divisor(model, images):
    pruner = attach(model, images, divisor=8)
    with pytest.raises(PruningError, match='reachable minimum') as caught:
        pruner.begin(
            {'flops': 0.2}, 10
        )  # single channels would reach less than 0.1
    # The floors are multiples of it, and nobody has asked for a share.
    assert 'min_keep' not in str(caught.value)


@pytest.mark.parametrize(
    'ask',
    [
        lambda pruner, mask: pruner.begin({'flops': 0.5}, 1),
        lambda pruner, mask: pruner.set_mask(mask),
        lambda pruner, mask: pruner.plan(),
        lambda pruner, mask: pruner.keep_ratios(),
    ],
)
def test_a_network_without_values_is_not_pruned(model, pruner, ask):
    mask = pruner.mask.clone()
    model.to('meta')
    with pytest.raises(PruningError, match='on the device meta, where nothi'):
        ask(pruner, mask)
