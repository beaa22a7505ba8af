# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError, attach


def run(pruner, steps=10, target=0.5):
    pruner.begin({'flops': target}, steps)
    for _ in range(steps):
        pruner.step()


def test_random_rates_differ_and_have_a_seed(make, images):
    shares = []
    for seed in (0, 0, 1):
        torch.manual_seed(5)
        pruner = attach(
            make(), images, method=dict(type='random', spread=1.0, seed=seed)
        )
        run(pruner)
        shares.append(list(pruner.keep_ratios().values()))
    assert shares[0] == shares[1] != shares[2]
    assert max(shares[0]) - min(shares[0]) > 0.2


def test_no_spread_is_uniform(make, images):
    masks = []
    for method in ('uniform', dict(type='random', spread=0)):
        torch.manual_seed(5)
        pruner = attach(make(), images, method=method)
        run(pruner)
        masks.append(pruner.mask)
    assert torch.equal(*masks)


def test_a_negative_spread(model, images):
    with pytest.raises(PruningError, match='random spread=-1'):
        attach(model, images, method=dict(type='random', spread=-1))
