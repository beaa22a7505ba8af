# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What goes with each channel, against a removal of the channel."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from mmlapp.core import attach, narrow
from mmlapp.core.methods.channel_tensors import channel_tensors, energies


def names_of(model, parts):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(part.stored())]: part for part in parts}


def test_filters_and_behind_them_the_norm_or_else_the_bias(model, images):
    parts = channel_tensors(attach(model, images).groups)
    found = names_of(model, parts)
    expected = {'a': 0, 'b': 8, 'c': 20}
    for name, start in expected.items():
        filters = found.pop(f'{name}.weight')
        size = len(filters.stored())
        channels = list(range(start, start + size))
        assert filters.channels.tolist() == channels
    assert found.keys() == {'a.bias', 'norm.weight', 'norm.bias', 'c.bias'}
    assert found['norm.bias'].channels.tolist() == list(range(8, 20))


@pytest.mark.parametrize(
    'network', ['make', 'normed', 'transposed', 'tied', 'mirrored']
)
def test_zeros_there_are_a_removal(request, net, conv, network):
    """The network computes as if the gate were zero."""

    def transposed():
        return net(
            lambda m, x: m.b(m.a(x).relu()),
            a=nn.ConvTranspose2d(3, 6, 3),
            b=conv(6, 4),
        )

    def tied():
        shared = conv(3, 6)
        return net(
            lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1).relu()),
            a=shared,
            b=shared,
            c=conv(12, 4),
        )

    def mirrored():
        # The weight emits along both of its dimensions.
        return net(
            lambda m, x: m.c(
                conv2d(m.b(m.a(x)).relu(), m.b.weight.transpose(0, 1))
            ),
            a=conv(3, 6, 1),
            b=conv(6, 8, 1),
            c=conv(6, 4, 1),
        )

    own = {'transposed': transposed, 'tied': tied, 'mirrored': mirrored}
    make = own.get(network) or request.getfixturevalue(network)
    model = make().double().eval()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    pruner = attach(model, images)
    parts = channel_tensors(pruner.groups)
    kept = torch.rand(len(pruner.gate)) < 0.6
    for start in (0, *torch.tensor(pruner.sizes).cumsum(0)[:-1].tolist()):
        kept[start] = True
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        for part in parts:
            # One weight may be several parts.
            (name,) = names_of(model, [part])
            target = dict(zeroed.named_parameters())[name]
            target -= part.gated(target, ~kept)
        expected = zeroed(images)
        assert not torch.allclose(model(images), expected)
        pruner.set_mask(kept)
        narrow(model, pruner.plan())
        torch.testing.assert_close(model(images), expected)


def test_a_norm_that_a_branch_fills_stays(normed, images):
    """Zeros in filters alone are a removal, for the norm sees all."""
    model = normed()
    pruner = attach(model, images.double(), unit='filters', bypass='depthwise')
    found = names_of(model, channel_tensors(pruner.groups))
    assert found.keys() == {f'{g.name}.weight' for g in pruner.groups}


def test_energies_are_sums_of_squares(model, images):
    pruner = attach(model, images)
    parts = channel_tensors(pruner.groups)
    found = energies(parts, [part.stored() for part in parts], 36)
    stored = {k: v.detach().double() for k, v in model.named_parameters()}
    b = [
        sum(w * w for w in stored['b.weight'][i].flatten().tolist())
        + float(stored['norm.weight'][i] ** 2 + stored['norm.bias'][i] ** 2)
        for i in range(12)
    ]
    assert found[8:20].tolist() == pytest.approx(b)


def test_what_belongs_to_no_channel_is_zero(normed, images):
    """Half of the second convolution is added to nothing, and stays."""
    model = normed()
    pruner = attach(model, images.double())
    found = names_of(model, channel_tensors(pruner.groups))
    filters, shift = found['conv2.weight'], found['norm2.bias']
    expected = [*range(8), *[-1] * 8]
    assert filters.channels.tolist() == shift.channels.tolist() == expected
    ones = torch.ones(16, 16, 3, 3)
    assert filters.gated(ones)[:8].all()
    assert not filters.gated(ones)[8:].any()
    kept = torch.arange(24) % 2 == 0
    assert shift.gated(torch.ones(16), kept).tolist() == [1, 0] * 4 + [0] * 8
    sums = energies([shift], [torch.full((16,), 3.0)], 24)
    assert sums.tolist() == [9] * 8 + [0] * 16
