# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import torch

from mmlapp.core import attach


def run(pruner, steps=10, target=0.5):
    pruner.begin({'flops': target}, steps)
    for _ in range(steps):
        pruner.step()


def test_uniform_keeps_the_same_share_everywhere(model, images):
    pruner = attach(model, images, method='uniform')
    run(pruner)
    shares = torch.tensor(list(pruner.keep_ratios().values()))
    sizes = torch.tensor(pruner.sizes)
    spread = (shares - shares.mean()).abs()
    assert (spread <= 1 / sizes).all()
    assert shares.max() < 0.9


def test_uniform_keeps_the_highest_scores(model, images):
    pruner = attach(model, images, method='uniform')
    run(pruner)
    for scores, mask in zip(
        pruner.scores.split(pruner.sizes),
        pruner.mask.split(pruner.sizes),
        strict=True,
    ):
        assert scores[mask].min() > scores[~mask].max()
