# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is made of decisions; see also the tests of what each is made with.

Spared channels are in ``test_protection.py``, those that shrink in
``test_shrinking.py``, phases that end early in ``test_stability.py``.
"""

import pytest
import torch
from pruning_steps import train

from mmlapp.core import attach
from mmlapp.core.mask.masked import apply_masks


@pytest.mark.parametrize('target', [1.0, 0.8, 0.45, 0.2])
def test_the_budget_is_kept(model, images, pruner, target):
    pruner.begin({'flops': target}, 12)
    train(model, images, 12)
    assert target - 0.05 < pruner.ratios()['flops'] <= target


def test_a_divisor_at_the_end_of_the_phase(model, images):
    pruner = attach(model, images, divisor=4)
    pruner.begin({'flops': 0.6}, 1)
    pruner.step()
    kept = [int(part.sum()) for part in pruner.mask.split([8, 12, 16])]
    assert pruner.ratios()['flops'] <= 0.6
    assert all(count % 4 == 0 for count in kept)
    assert sum(kept) < 36


def test_parameters_multiplied_for_good_are_what_masks_show(model, images):
    """Of any numbers, which need not be those of a gate."""
    pruner = attach(model, images)
    model.eval()
    factor = torch.linspace(0, 1, 36)
    with torch.no_grad():
        pruner.gate.copy_(factor)
        expected = model(images)
        pruner.gate.fill_(1)
        assert not torch.allclose(model(images), expected)
    pruner.multiply(factor)
    torch.testing.assert_close(model(images), expected)


def test_what_the_optimizer_keeps_is_multiplied_as_well(model, images):
    """Then what was removed is zero, and stays so."""
    pruner = attach(model, images)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1)
    pruner.begin({'flops': 0.5}, 2)
    for _ in range(2):
        model(images).square().sum().backward()
        optimizer.step()
        pruner.step()
    dead = [
        module._parameters[name].detach() != apply_masks(module, name, value)
        for module, name in pruner.masked
        if (value := module._parameters[name]) is not None
    ]
    assert sum(int(each.sum()) for each in dead) > 100
    pruner.multiply(pruner.gate, optimizer)
    model(images).square().sum().backward()
    optimizer.step()
    for each, (module, name) in zip(dead, pruner.masked, strict=True):
        assert (module._parameters[name][each] == 0).all()
        assert (module._parameters[name][~each] != 0).any()
