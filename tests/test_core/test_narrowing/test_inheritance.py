# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Narrow parameters are what the wide ones were to everybody else."""

import torch
from torch import nn

from mmlapp.core import attach, narrow


class Scaled(nn.Parameter):
    """A parameter of a class of its own."""


def two_layers(conv, image):
    """Half of the channels of the first layer are condemned."""
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 5)).double()
    pruner = attach(model, image)
    mask = torch.arange(8) % 2 == 0
    pruner.set_mask(mask)
    return model, mask


def test_marks_for_the_optimizer_stay(conv, image):
    model, mask = two_layers(conv, image)
    old = model[0].weight
    old.no_decay, old._optim = True, {'lr': 0.5}
    old.average = old.detach().clone()
    old.table = torch.arange(3)
    plan = model.pruner.plan()
    new = narrow(model, plan)[0].weight
    assert new.no_decay
    assert new._optim == {'lr': 0.5}
    torch.testing.assert_close(new.average, new.detach())
    assert new.average.shape[0] == mask.sum()
    assert new.table is old.table


def test_a_class_of_its_own_stays(conv, image):
    model, _ = two_layers(conv, image)
    model[0].weight = Scaled(model[0].weight.detach())
    new = narrow(model, model.pruner.plan())[0].weight
    assert type(new) is Scaled
    assert type(model[2].weight) is nn.Parameter


def test_hooks_of_gradients_go_on(conv, image):
    """A gradient is that of the masked network, halved by the hook."""
    model, mask = two_layers(conv, image)
    handle = model[0].weight.register_hook(lambda grad: grad / 2)
    model(image).square().sum().backward()
    expected = model[0].weight.grad[mask]
    new = narrow(model, model.pruner.plan())[0].weight
    for factor in (1, 2):
        new.grad = None
        model(image).square().sum().backward()
        torch.testing.assert_close(new.grad, expected * factor)
        handle.remove()


def test_steps_that_are_taken_in_the_backward_go_on(conv, image):
    model, _ = two_layers(conv, image)
    seen = []
    model[0].weight.register_post_accumulate_grad_hook(seen.append)
    new = narrow(model, model.pruner.plan())[0].weight
    model(image).sum().backward()
    assert len(seen) == 1
    assert seen[0] is new
