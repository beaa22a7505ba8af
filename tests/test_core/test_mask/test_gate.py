# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmlapp.core import attach, shrink
from mmlapp.core.mask.gate import (
    ApplyMask,
    HardMask,
    ParameterMask,
    add_mask,
    remove_masks,
)
from mmlapp.core.methods.lapp.surrogates import SURROGATES

GROUP = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])


@pytest.fixture(params=list(SURROGATES))
def surrogate(request):
    return SURROGATES[request.param](0.8)


@pytest.fixture
def source(surrogate):
    """Two groups of channels with thresholds in the middle."""
    scores = torch.rand(8, dtype=torch.float64)
    threshold = torch.tensor([0.4, 0.6], dtype=torch.float64)
    margin = scores - threshold[GROUP]
    return SimpleNamespace(
        active=True,
        scores=scores,
        threshold=threshold.requires_grad_(),
        gate=torch.zeros(9, dtype=torch.float64, requires_grad=True),
        mask=torch.cat([margin > 0, torch.ones(1, dtype=torch.bool)]),
        slope=torch.cat([surrogate.slope(margin), margin.new_zeros(1)]),
        group=torch.cat([GROUP, GROUP[:1]]),
    )


def straight_through(source, surrogate):
    """The hard step with the derivative of the relaxed one, by autograd."""
    relaxed = surrogate.relaxed(source.scores - source.threshold[GROUP])
    return source.mask[:-1].double() + relaxed - relaxed.detach()


@pytest.mark.parametrize('dim', [0, 1])
def test_gradients_of_a_masked_parameter(source, surrogate, dim):
    shape = (8, 3, 2) if dim == 0 else (3, 8, 2)
    parameter = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape, dtype=torch.float64)
    view = [1, 1, 1]
    view[dim] = 8

    masked = ApplyMask.apply(
        parameter,
        source.threshold,
        source.gate[:-1],
        source.mask[:-1],
        source.slope[:-1],
        GROUP,
        dim,
    )
    mask = straight_through(source, surrogate)
    reference = parameter * mask.view(view)
    torch.testing.assert_close(masked, reference)
    inputs = (parameter, source.threshold)
    found = torch.autograd.grad(
        (masked * weight).sum(), (*inputs, source.gate)
    )
    expected = torch.autograd.grad((reference * weight).sum(), (*inputs, mask))
    torch.testing.assert_close(found[:2], expected[:2])
    torch.testing.assert_close(found[2][:-1], expected[2])
    assert (expected[1] != 0).all()


def test_gradients_of_the_mask_itself(source, surrogate):
    weight = torch.randn(8, dtype=torch.float64)
    mask = HardMask.apply(
        source.threshold, source.mask[:-1], source.slope[:-1], GROUP
    )
    reference = straight_through(source, surrogate)
    torch.testing.assert_close(mask, reference)
    (found,) = torch.autograd.grad((mask * weight).sum(), source.threshold)
    (expected,) = torch.autograd.grad(
        (reference * weight).sum(), source.threshold
    )
    torch.testing.assert_close(found, expected)
    assert (expected != 0).all()


@pytest.fixture
def layer():
    return nn.Conv2d(4, 8, 1).double()


def mask_rows(source, learn=True):
    return ParameterMask(source, torch.arange(8), 0, learn)


def test_a_module_reads_its_parameter_masked(layer, source):
    weight = layer.weight
    add_mask(layer, 'weight', mask_rows(source))
    expected = weight * source.mask[:-1].double()[:, None, None, None]
    torch.testing.assert_close(layer.weight, expected)
    x = torch.randn(1, 4, 2, 2).double()
    torch.testing.assert_close(
        layer(x), nn.functional.conv2d(x, expected, layer.bias)
    )


def test_everyone_else_sees_it_unmasked(layer, source):
    weight, before = layer.weight, layer.weight.detach().clone()
    add_mask(layer, 'weight', mask_rows(source))
    assert dict(layer.named_parameters())['weight'] is weight
    torch.testing.assert_close(layer.state_dict()['weight'], before)


def test_the_class_keeps_its_name(layer, source):
    add_mask(layer, 'weight', mask_rows(source))
    assert isinstance(layer, nn.Conv2d)
    assert type(layer).__name__ == 'Conv2d'
    assert type(layer).__module__ == nn.Conv2d.__module__
    assert repr(layer) == repr(nn.Conv2d(4, 8, 1))


def test_an_inactive_mask_gives_the_parameter_itself(layer, source):
    weight = layer.weight
    add_mask(layer, 'weight', mask_rows(source))
    source.active = False
    assert layer.weight is weight
    nn.init.constant_(layer.weight, 3.0)
    assert (layer.state_dict()['weight'] == 3).all()


def test_a_parameter_may_be_replaced(layer, source):
    add_mask(layer, 'weight', mask_rows(source))
    fresh = nn.Parameter(torch.rand(8, 4, 1, 1).double())
    layer.weight = fresh
    assert dict(layer.named_parameters())['weight'] is fresh
    assert (layer.weight[~source.mask[:-1]] == 0).all()


def test_a_parameter_that_is_none_stays_none(source):
    layer = nn.Conv2d(4, 8, 1, bias=False)
    add_mask(layer, 'bias', mask_rows(source))
    assert layer.bias is None


def test_two_masks_on_two_dimensions(source):
    layer = nn.Linear(8, 8).double()
    weight = layer.weight
    add_mask(layer, 'weight', mask_rows(source))
    add_mask(layer, 'weight', ParameterMask(source, torch.arange(8), 1))
    add_mask(layer, 'bias', mask_rows(source))
    mask = source.mask[:-1].double()
    torch.testing.assert_close(
        layer.weight, weight * mask[:, None] * mask[None]
    )
    assert ((layer.bias == 0) == (mask == 0)).all()


def test_channels_in_any_order_and_always_kept_ones(layer, source):
    """Index 8 of the source stands for a channel that nobody removes."""
    channels = torch.tensor([3, 8, 0, 8, 7, 1, 8, 2])
    weight = layer.weight
    add_mask(layer, 'weight', ParameterMask(source, channels, 0))
    expected = source.mask[channels].double()
    torch.testing.assert_close(
        layer.weight, weight * expected[:, None, None, None]
    )
    layer.weight.square().sum().backward()
    relevant = source.threshold.grad
    reference = weight.detach().flatten(1).square().sum(1)
    by_channel = -2 * reference * expected * source.slope[channels]
    summed = torch.zeros(2).double()
    summed.index_add_(0, source.group[channels], by_channel)
    torch.testing.assert_close(relevant, summed)


def test_a_mask_that_does_not_learn(layer, source):
    add_mask(layer, 'weight', mask_rows(source, learn=False))
    layer.weight.sum().backward()
    assert source.threshold.grad is None
    assert dict(layer.named_parameters())['weight'].grad is not None


def test_a_frozen_parameter_still_teaches_the_threshold(layer, source):
    layer.requires_grad_(False)
    add_mask(layer, 'weight', mask_rows(source))
    layer.weight.sum().backward()
    assert (source.threshold.grad != 0).all()


def test_removing_masks_gives_the_class_back(layer, source):
    weight = layer.weight
    add_mask(layer, 'weight', mask_rows(source))
    add_mask(layer, 'bias', mask_rows(source))
    remove_masks(layer)
    assert type(layer) is nn.Conv2d
    assert layer.weight is weight
    assert '_masks' not in layer.__dict__
    remove_masks(layer)  # harmless where there are none


def test_copies_are_independent(layer, source):
    add_mask(layer, 'weight', mask_rows(source))
    other = copy.deepcopy(layer)
    masks = other.__dict__['_masks']['weight']
    assert masks[0].source is not source
    masks[0].source.mask[:] = False
    assert (other.weight == 0).all()
    assert (layer.weight != 0).any()


def test_a_mask_on_one_layer_leaves_its_class_alone(layer, source):
    add_mask(layer, 'weight', mask_rows(source))
    assert type(nn.Conv2d(4, 8, 1)) is nn.Conv2d
    assert 'weight' not in vars(nn.Conv2d)


@pytest.mark.parametrize('synchronised', [False, True])
def test_a_norm_that_was_converted_is_masked_again(
    net, conv, image, mask_randomly, randomise, synchronised
):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x)).relu()),
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        b=conv(8, 4),
    ).eval()
    lapp = attach(randomise(model), image)
    kind = nn.SyncBatchNorm if synchronised else nn.BatchNorm2d
    fresh = kind(8).double().eval()
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
        setattr(fresh, name, getattr(model.norm, name))
    model.norm = fresh
    mask_randomly(lapp)
    with torch.no_grad():
        masked = model(image)
        slim = shrink(model, lapp.plan())(image)
    torch.testing.assert_close(masked, slim)
    assert type(model.norm) is kind
