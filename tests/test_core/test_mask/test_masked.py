# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
import operator

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from mmlapp.core import PruningError, attach, narrow
from mmlapp.core.mask.gate import ParameterMask
from mmlapp.core.mask.masked import add_mask, remove_masks


@pytest.fixture
def layer():
    return nn.Conv2d(4, 8, 1).double()


def mask_rows(source, learn=True):
    return ParameterMask(source, torch.arange(8), 0, learn)


def test_a_module_reads_its_parameter_masked(layer, source, read):
    weight = layer.weight
    add_mask(layer, 'weight', mask_rows(source))
    expected = weight * source.factor.detach()[:, None, None, None]
    torch.testing.assert_close(read(layer), expected)
    x = torch.randn(1, 4, 2, 2).double()
    torch.testing.assert_close(
        layer(x), nn.functional.conv2d(x, expected, layer.bias)
    )


def test_everyone_else_sees_it_unmasked(layer, source):
    weight, before = layer.weight, layer.weight.detach().clone()
    add_mask(layer, 'weight', mask_rows(source))
    assert dict(layer.named_parameters())['weight'] is weight
    torch.testing.assert_close(layer.state_dict()['weight'], before)


WRITES = {
    'zero': lambda layer: layer.weight.zero_(),
    'data': lambda layer: layer.weight.data.fill_(3),
    'new data': lambda layer: setattr(
        layer.weight, 'data', torch.ones(8, 4, 1, 1).double()
    ),
    'a view': lambda layer: layer.weight[2:].fill_(3),
    'augmented': lambda layer: setattr(
        layer, 'weight', operator.iadd(layer.weight, 1)
    ),
    'initialiser': lambda layer: nn.init.kaiming_normal_(layer.weight),
    'own initialiser': lambda layer: layer.reset_parameters(),
    'applied': lambda layer: layer.apply(lambda m: m.weight.mul_(2)),
}


@pytest.mark.parametrize('name', WRITES)
def test_writes_reach_the_parameter(layer, source, name):
    """As they do without a mask."""
    plain = copy.deepcopy(layer)
    weight = layer.weight
    add_mask(layer, 'weight', mask_rows(source))
    for each in (plain, layer):
        torch.manual_seed(3)
        with torch.no_grad():
            WRITES[name](each)
    assert layer.weight is weight
    assert torch.equal(weight, plain.weight)


def test_a_backward_that_runs_a_forward_again_reads_masked(layer, source):
    """Checkpointed is what it is without, also outside of every module."""
    add_mask(layer, 'weight', mask_rows(source))
    model = nn.Module()
    x = torch.randn(2, 4, 3, 3).double().requires_grad_()

    def inner(x):
        return nn.functional.conv2d(x, layer.weight).square()

    found = []
    for run in (inner, lambda x: checkpoint(inner, x, use_reentrant=False)):
        model.forward = run
        inputs = x, source.factor, layer.weight
        found.append(torch.autograd.grad(model(x).sum(), inputs))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_vmap_and_grad_see_the_mask(layer, source):
    add_mask(layer, 'weight', mask_rows(source))
    x = torch.randn(2, 3, 4, 5, 5).double()
    mapped = torch.vmap(layer)(x)
    torch.testing.assert_close(mapped, torch.stack([layer(t) for t in x]))
    (expected,) = torch.autograd.grad(layer(x[0]).sum(), layer.weight)

    def loss(weight):
        parameters = {'weight': weight}
        return torch.func.functional_call(layer, parameters, x[0]).sum()

    found = torch.func.grad(loss)(layer.weight.detach())
    torch.testing.assert_close(found, expected)


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


def test_a_parameter_may_be_replaced(layer, source, read):
    add_mask(layer, 'weight', mask_rows(source))
    fresh = nn.Parameter(torch.rand(8, 4, 1, 1).double())
    layer.weight = fresh
    assert dict(layer.named_parameters())['weight'] is fresh
    assert (read(layer)[source.factor == 0] == 0).all()


def test_a_parameter_that_is_none_stays_none(source, read):
    layer = nn.Conv2d(4, 8, 1, bias=False)
    add_mask(layer, 'bias', mask_rows(source))
    assert read(layer, 'bias') is None


def test_two_masks_on_two_dimensions(source, read):
    layer = nn.Linear(8, 8).double()
    weight = layer.weight
    add_mask(layer, 'weight', mask_rows(source))
    add_mask(layer, 'weight', ParameterMask(source, torch.arange(8), 1))
    add_mask(layer, 'bias', mask_rows(source))
    mask = source.factor.detach()
    torch.testing.assert_close(
        read(layer), weight * mask[:, None] * mask[None]
    )
    assert ((read(layer, 'bias') == 0) == (mask == 0)).all()


def test_channels_in_any_order_and_always_kept_ones(layer, source, read):
    """Index -1 stands for a channel that nobody removes."""
    channels = torch.tensor([3, -1, 2, -1, 7, 1, -1, 5])
    weight = layer.weight
    add_mask(layer, 'weight', ParameterMask(source, channels, 0))
    gate = source.factor.detach()
    factor = torch.tensor(
        [1.0 if c < 0 else float(gate[c]) for c in channels.tolist()]
    ).double()
    torch.testing.assert_close(
        read(layer), weight * factor[:, None, None, None]
    )
    read(layer).square().sum().backward()
    # d/dg of (g w)^2 is 2 g w^2
    squares = weight.detach().flatten(1).square().sum(1)
    expected = torch.zeros(8).double()
    for row, channel in enumerate(channels.tolist()):
        if channel >= 0:
            expected[channel] += 2 * factor[row] * squares[row]
    torch.testing.assert_close(source.factor.grad, expected)


def test_a_mask_that_does_not_learn(layer, source, read):
    add_mask(layer, 'weight', mask_rows(source, learn=False))
    read(layer).sum().backward()
    assert source.factor.grad is None
    assert dict(layer.named_parameters())['weight'].grad is not None


def test_a_frozen_parameter_still_teaches_the_gate(layer, source, read):
    layer.requires_grad_(False)
    add_mask(layer, 'weight', mask_rows(source))
    read(layer).sum().backward()
    assert (source.factor.grad != 0).all()


def test_removing_masks_gives_the_class_back(layer, source):
    weight = layer.weight
    add_mask(layer, 'weight', mask_rows(source))
    add_mask(layer, 'bias', mask_rows(source))
    remove_masks(layer)
    assert type(layer) is nn.Conv2d
    assert layer.weight is weight
    assert '_masks' not in layer.__dict__
    remove_masks(layer)  # harmless where there are none


def test_copies_are_independent(layer, source, read):
    add_mask(layer, 'weight', mask_rows(source))
    other = copy.deepcopy(layer)
    masks = other.__dict__['_masks']['weight']
    assert masks[0].source is not source
    masks[0].source.factor.data.zero_()
    assert (read(other) == 0).all()
    assert (read(layer) != 0).any()


def test_a_mask_on_one_layer_leaves_its_class_alone(layer, source):
    add_mask(layer, 'weight', mask_rows(source))
    assert type(nn.Conv2d(4, 8, 1)) is nn.Conv2d
    assert 'weight' not in vars(nn.Conv2d)


@pytest.fixture
def normed(net, conv, randomise):
    """A norm between two convolutions."""
    model = net(
        lambda m, x: m.b(m.norm(m.a(x)).relu()),
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        b=conv(8, 4),
    ).eval()
    return randomise(model)


@pytest.mark.parametrize('ran', [False, True])
@pytest.mark.parametrize('synchronised', [False, True])
def test_a_norm_that_was_converted_is_masked_again(
    normed, image, mask_randomly, synchronised, ran
):
    model, pruner = normed, attach(normed, image)
    if ran:
        model(image)
    kind = nn.SyncBatchNorm if synchronised else nn.BatchNorm2d
    fresh = kind(8).double().eval()
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
        setattr(fresh, name, getattr(model.norm, name))
    model.norm = fresh
    mask_randomly(pruner)
    with torch.no_grad():
        masked = model(image)
        slim = narrow(model, pruner.plan())(image)
    torch.testing.assert_close(masked, slim)
    assert type(model.norm) is kind


@pytest.mark.parametrize('ran', [False, True])
@pytest.mark.parametrize('replace', [nn.Identity, None])
def test_a_norm_that_was_folded_is_refused(
    normed, image, mask_randomly, ran, replace
):
    """Its channels would be back; others see no difference."""
    pruner = attach(normed, image)
    mask_randomly(pruner)
    if ran:
        normed(image)
    if replace is None:
        del normed.norm
        now = 'norm is gone'
    else:
        normed.norm = replace()
        now = 'norm is of type Identity now'
    with pytest.raises(PruningError, match=f'{now}, .* fuse_conv_bn'):
        normed(image)


@pytest.fixture
def bare(net, conv):
    """Convolutions that carry their masks themselves, but for the first."""
    return net(
        lambda m, x: m.c(m.b(m.norm(m.a(x)).relu()).relu()),
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        b=conv(8, 6),
        c=conv(6, 4),
    )


@pytest.mark.parametrize('ran', [False, True])
def test_a_parametrization_that_comes_late_is_refused(bare, image, ran):
    """It would read the stored weight past the mask."""
    pruner = attach(bare, image)
    if ran:
        bare(image)
    parametrizations.weight_norm(bare.b)
    with pytest.raises(PruningError, match=r'b is of type Parametrized.* now'):
        bare(image)
    with pytest.raises(PruningError, match='b has no weight any more'):
        pruner.begin({'flops': 0.5}, 20)


def test_a_scheme_that_puts_a_tensor_there_is_refused(bare, image):
    attach(bare, image)
    with pytest.raises(PruningError, match='Conv2d has a tensor now'):
        prune.l1_unstructured(bare.b, 'weight', 0.5)


@pytest.mark.parametrize('ran', [False, True])
@pytest.mark.parametrize('name', ['a', 'b'])
def test_another_layer_in_the_place_of_a_scored_one(
    bare, image, conv, ran, name
):
    """The score would be that of the old one."""
    attach(bare, image)
    if ran:
        bare(image)
    old = getattr(bare, name)
    new = conv(old.in_channels, old.out_channels).double()
    setattr(bare, name, new)
    with pytest.raises(PruningError, match=f'^{name} was replaced'):
        bare(image)


def test_another_layer_that_only_reads_is_none_of_ours(
    net, conv, image, mask_randomly
):
    model = net(
        lambda m, x: m.b(functional.softplus(m.a(x))),
        a=conv(3, 8),
        b=conv(8, 4),
    )
    pruner = attach(model, image)
    model(image)
    model.b = conv(8, 7).double()
    mask_randomly(pruner)
    with torch.no_grad():
        masked = model(image)
        slim = narrow(model, pruner.plan())(image)
    torch.testing.assert_close(masked, slim)


def test_a_copy_looks_at_its_own_modules(normed, image):
    attach(normed, image)
    normed(image)
    twin = copy.deepcopy(normed)
    twin.norm = nn.Identity()
    normed(image)
    with pytest.raises(PruningError, match='norm is of type Identity now'):
        twin(image)


def test_a_narrow_network_may_be_folded(normed, image, mask_randomly):
    pruner = attach(normed, image)
    mask_randomly(pruner)
    normed(image)
    slim = narrow(normed, pruner.plan())
    slim.norm = nn.Identity()
    assert slim(image).isfinite().all()


def test_a_checkpointed_part_looks_up_as_often(layer, source):
    """In any order, where the lookup is more than a slice."""
    channels = torch.tensor([3, -1, 2, -1, 7, 1, -1, 5])
    add_mask(layer, 'weight', ParameterMask(source, channels, 0))
    x = torch.randn(2, 4, 3, 3).double().requires_grad_()
    found = [
        torch.autograd.grad(run(x).square().sum(), (x, source.factor))
        for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=False))
    ]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
