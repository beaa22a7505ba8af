# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Shares by the sparsity of weights, against loops over numbers."""

import pytest
import torch
from pruning_steps import kept_by_group, train

from mmlapp.core import PruningError, attach

NAMES = 'abc'


def stored(model, name):
    """As it is: read by the layer it is masked."""
    return dict(model.named_parameters())[f'{name}.weight']


def sparsity_by_loops(model, masks, near_zero=0.1):
    """Share of weights near zero, of channels that live."""
    shares = []
    for name, mask in zip(NAMES, masks, strict=True):
        rows = stored(model, name).detach().flatten(1).tolist()
        sizes = [
            abs(w)
            for row, lives in zip(rows, mask.tolist(), strict=True)
            if lives
            for w in row
        ]
        bound = near_zero * sum(sizes) / len(sizes)
        shares.append(sum(size < bound for size in sizes) / len(sizes))
    return shares


@pytest.mark.parametrize('near_zero', [0.1, 1.0])
def test_sparsity_is_that_of_living_channels(model, images, near_zero):
    method = dict(type='psap', near_zero=near_zero)
    pruner = attach(model, images, method=method)
    pruner.begin({'flops': 0.5}, 10)
    found = []
    for _ in range(9):
        train(model, images, 1)
        masks = pruner.mask.split(pruner.sizes)
        expected = sparsity_by_loops(model, masks, near_zero)
        found.append(pruner.method.by_group(pruner)['sparsity'].tolist())
        assert found[-1] == pytest.approx(expected)
    assert found[0] != found[-1]


def test_groups_lose_in_proportion_to_their_sparsity(model, images):
    """0, a quarter and a half of the weights are zero."""
    with torch.no_grad():
        for name, share in zip(NAMES, (0, 0.25, 0.5), strict=True):
            weight = stored(model, name)
            weight.copy_(1 + torch.rand_like(weight))
            count = int(share * weight[0].numel())
            weight.flatten(1)[:, :count] = 0
    pruner = attach(model, images, method='psap')
    # 3 a + a b + b c + 5 c of 8, 12 and 16 channels are 392.
    pruner.begin({'flops': 0.6}, 10)
    for _ in range(8):
        pruner.step()
    a, b, c = kept_by_group(pruner)
    assert pruner.method.sparsity(pruner).tolist() == pytest.approx(
        [0, 0.25, 0.5], abs=0.01
    )
    assert a == 8
    lost = (12 - b) / 12, (16 - c) / 16
    # c loses twice as much as b, up to one channel of either.
    assert abs(lost[1] - 2 * lost[0]) <= 1 / 16 + 2 / 12
    assert lost[0] > 0
    assert 0.55 < pruner.ratios()['flops'] <= 0.6


def test_within_a_group_the_lowest_scores_go(model, images):
    pruner = attach(model, images, method='psap')
    pruner.begin({'flops': 0.5}, 10)
    train(model, images, 9)
    pairs = zip(
        pruner.scores.split(pruner.sizes),
        pruner.mask.split(pruner.sizes),
        strict=True,
    )
    for scores, mask in pairs:
        assert mask.all() or scores[mask].min() > scores[~mask].max()


def test_weights_that_are_nowhere_near_zero(model, images):
    """Nothing is sparse: groups lose alike, and no number is infinite."""
    with torch.no_grad():
        for name in NAMES:
            stored(model, name).fill_(1)
    pruner = attach(model, images, method='psap')
    pruner.begin({'flops': 0.5}, 1)
    assert pruner.method.ranking(pruner).isfinite().all()
    pruner.step()
    shares = pruner.keep_ratios().values()
    assert max(shares) - min(shares) <= 2 / 8


@pytest.mark.parametrize('value', [0, -1, True, 'all'])
def test_a_bound_that_is_not_positive(model, images, value):
    with pytest.raises(PruningError, match=f'psap near_zero={value!r}: expec'):
        attach(model, images, method=dict(type='psap', near_zero=value))


def test_refusals_call_it_by_its_name(model, images):
    with pytest.raises(PruningError, match=r'psap steps=0: expected'):
        attach(model, images, method={'type': 'psap', 'steps': 0})
    pruner = attach(model, images, method={'type': 'psap', 'steps': 9})
    with pytest.raises(PruningError, match=r'psap steps=9: a phase of 5'):
        pruner.begin({'flops': 0.5}, 5)
