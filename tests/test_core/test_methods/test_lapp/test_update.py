# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A rule of one's own for LAPP's thresholds."""

import torch

from mmlapp.core import LAPP, attach
from mmlapp.core.methods.lapp.update import UPDATES, Update


class Climb(Update):
    """All thresholds rise by the same step."""

    def move(self, lapp, pruner, bounds):
        lapp.threshold.add_(0.1)


def test_rules_of_the_product_are_there():
    assert set(UPDATES) >= {'balance', 'gradient'}


def test_a_rule_of_ones_own_moves_the_thresholds(model, images):
    pruner = attach(model, images, method=LAPP(Climb()))
    assert not pruner.method.adds_loss
    pruner.begin({'flops': 0.3}, 10)
    before = pruner.method.threshold.clone()
    model(images).square().mean().backward()
    assert pruner.loss().item() == 0
    pruner.step()
    torch.testing.assert_close(pruner.method.threshold, before + 0.1)


def test_without_a_gradient_it_is_not_asked(model, images):
    pruner = attach(model, images, method=LAPP(Climb()))
    pruner.begin({'flops': 0.3}, 10)
    before = pruner.method.threshold.clone()
    pruner.step()
    assert torch.equal(pruner.method.threshold, before)
