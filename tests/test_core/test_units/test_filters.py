# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import PruningError, attach, narrow
from mmlapp.core.bypass.beside import Bypassed
from mmlapp.core.trace.own_calls import MEASURED

KINDS = ['depthwise', 'pointwise', 'grouped']


@pytest.mark.parametrize('kind', KINDS)
def test_fill_adds_the_bypass_to_what_is_left(
    plain, image, kind, mask_randomly
):
    """Computes m W(x) + B(x), by hand."""
    model = plain()
    pruner = attach(model, image, bypass=kind, unit='filters')
    weight, bias = model.b.weight.detach(), model.b.bias.detach()
    mask_randomly(pruner)
    start = [i.name for i in pruner.groups].index('b')
    mask = pruner.mask.split([i.size for i in pruner.groups])[start]
    x = torch.randn(2, 8, 8, 8).double()
    main = functional.conv2d(x, weight, bias, stride=2, padding=1)
    expected = main * mask.view(1, -1, 1, 1) + model.b.bypass(x)
    torch.testing.assert_close(model.b(x), expected)


def test_a_layer_may_lose_all_filters_to_its_bypass(plain, image):
    model = plain().eval()
    pruner = attach(model, image, bypass='depthwise', unit='filters')
    pruner.set_mask(torch.zeros_like(pruner.mask))
    masked = model(image)
    slim = narrow(copy.deepcopy(model), pruner.plan())
    assert slim.b.weight.shape == (0, 8, 3, 3)
    slim.b._conv_forward = None  # it must not run
    torch.testing.assert_close(slim(image), masked)


def test_fill_leaves_layers_without_a_bypass_alone(net, conv, image, agree):
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 8, 1),
        b=conv(8, 8),
        c=conv(8, 5, 1),
    )
    result = agree(model, image, bypass='pointwise', unit='filters')
    assert result.groups == {'b': 8}


FILLED = {
    'one dimension': (nn.Conv1d(8, 8, 3, padding=1), (2, 8, 9), 8),
    'three dimensions': (nn.Conv3d(8, 8, 3, padding=1), (2, 8, 4, 4, 4), 8),
    'grouped': (
        nn.Conv2d(8, 12, 3, padding=1, groups=2),
        (2, 8, 8, 8),
        6,
    ),
    'transposed': (
        nn.ConvTranspose2d(8, 12, 3, stride=2, padding=1, output_padding=1),
        (2, 8, 8, 8),
        12,
    ),
}


@pytest.mark.parametrize('keep', [0.5, 0.0])
@pytest.mark.parametrize('name', FILLED)
def test_fill_beside_every_kind(net, agree, name, keep):
    """Filters of a grouped one go at the same place of every group."""
    layer, shape, size = FILLED[name]
    model = net(lambda m, x: m.a(x), a=copy.deepcopy(layer))
    result = agree(
        model,
        torch.randn(shape).double(),
        keep=keep,
        bypass='depthwise',
        unit='filters',
    )
    assert result.groups == {'a': size}
    assert result.slim.a.groups == layer.groups


def test_fill_may_prune_what_leaves_the_network(net, conv, image, agree):
    """The output keeps its width; only filters go."""
    model = net(lambda m, x: m.a(x), a=conv(6, 8))
    image = torch.randn(2, 6, 8, 8).double()
    result = agree(model, image, bypass='pointwise', unit='filters')
    assert result.groups == {'a': 8}


def non_local(m, x):
    f = m.a(x).flatten(2)
    y = (f.transpose(1, 2) @ f).softmax(-1) @ f.transpose(1, 2)
    return m.b(y.transpose(1, 2).unflatten(2, x.shape[2:]))


def channel_attention(m, x):
    f = m.a(x).flatten(2)
    return m.b(torch.einsum('bci,bdi->bcd', f, f).softmax(-1) @ f)


READERS = {
    'positions': (non_local, nn.Conv2d(8, 5, 1)),
    'channels': (channel_attention, nn.Conv1d(8, 5, 1)),
    'rows': (lambda m, x: m.b(m.a(x)), nn.Linear(8, 5)),
    'norm': (lambda m, x: m.b(m.a(x)), nn.BatchNorm2d(8)),
    'grouped': (lambda m, x: m.b(m.a(x)), nn.Conv2d(8, 4, 3, groups=4)),
    'batch': (
        lambda m, x: m.b(m.a(x).flatten(0, 1)[:, None]).sum(),
        nn.Conv2d(1, 5, 3),
    ),
}


@pytest.mark.parametrize('keep', [0.5, 0.0])
@pytest.mark.parametrize('name', READERS)
def test_who_reads_full_channels_is_not_cheaper(
    net, conv, image, agree, name, keep
):
    """FLOPs and parameters of the plan are those that torch counts."""
    forward, reader = READERS[name]
    reader = copy.deepcopy(reader)
    # Drawn where this file was read, after whatever was read before.
    reader.reset_parameters()
    model = net(forward, a=conv(3, 8), b=reader)
    result = agree(
        model, image, keep=keep, bypass='pointwise', unit='filters', scope='a'
    )
    assert result.groups == {'a': 8}


class Block(nn.Module):
    """Keeps its widths, which the network around it reads."""

    def __init__(self, conv):
        super().__init__()
        self.in_channels, self.out_channels = 8, 12
        self.conv, self.norm = conv, nn.BatchNorm2d(12)

    @property
    def width(self):
        return self.conv.out_channels

    def forward(self, x):
        return self.norm(self.conv(x))


WIDTHS = {
    'of the layer': lambda m: m.b.conv.out_channels,
    'by a property': lambda m: m.b.width,
    'of the block': lambda m: m.b.out_channels,
    'of a sum': lambda m: m.a.out_channels + m.b.conv.out_channels - 8,
    'of the norm': lambda m: m.b.norm.num_features,
}


# 7 of 12 filters, which no view of all would fit, or none.
@pytest.mark.parametrize('keep', [0.6, 0.0])
@pytest.mark.parametrize('kind', ['depthwise', 'pointwise'])
@pytest.mark.parametrize('name', WIDTHS)
def test_numbers_of_a_layer_are_what_it_emits(
    net, conv, image, agree, name, kind, keep
):
    def forward(m, x):
        y = m.b(m.a(x).relu())
        rows = y.view(y.size(0), WIDTHS[name](m), -1)
        return m.c((rows * rows.mean(2, keepdim=True)).view(y.shape))

    model = net(forward, a=conv(3, 8), b=Block(conv(8, 12)), c=conv(12, 5))
    result = agree(
        model, image, keep=keep, bypass=kind, unit='filters', scope=['a', 'b*']
    )
    assert 'b.conv' in result.groups
    assert result.slim.b.conv.weight.shape[0] == int(12 * keep)
    assert result.slim.b.conv.out_channels == 12
    assert (result.slim.b.in_channels, result.slim.b.out_channels) == (8, 12)
    assert result.plan.attributes == {}


@pytest.mark.parametrize('keep', [0.6, 0.0])
@pytest.mark.parametrize(
    'kind', [nn.ConvTranspose2d, partial(nn.Conv2d, groups=2)]
)
def test_what_is_made_as_wide_as_a_layer(net, agree, kind, keep):
    """Not filters of one group, nor of one that is turned around."""

    def forward(m, x):
        y = m.a(x)
        return y + y.new_ones(m.a.out_channels, 1, 1)

    model = net(forward, a=kind(8, 12, 3))
    x = torch.randn(2, 8, 6, 6).double()
    agree(model, x, keep=keep, bypass='depthwise', unit='filters')


SIZES = {
    'shape': lambda m: m.b.weight.shape[0],
    'size': lambda m: m.b.weight.size(0),
    'length': lambda m: len(m.b.weight),
    'elements': lambda m: m.b.bias.numel(),
    'view as': lambda m: torch.ones(12).view_as(m.b.bias).size(0),
    'expanded as': lambda m: torch.ones(1).expand_as(m.b.bias).size(0),
}


@pytest.mark.parametrize('name', SIZES)
def test_who_asks_a_weight_for_its_size_gets_all_filters(
    net, conv, agree, frozen, name
):
    def forward(m, x):
        y = m.b(m.a(x).relu())
        return m.c(y.view(y.size(0), SIZES[name](m), -1).view(y.shape))

    model = net(forward, a=conv(4, 8), b=conv(8, 12), c=conv(12, 5))
    x = torch.randn(2, 4, 8, 8).double()
    asked = {'bypass': 'depthwise', 'unit': 'filters'}
    assert frozen(model, x, **asked)['b'] == MEASURED
    assert agree(model, x, keep=0.0, **asked).groups == {'a': 8}


def test_who_asks_for_it_in_training_alone(net, conv, agree, frozen):
    def forward(m, x):
        y = m.b(m.a(x).relu())
        width = m.b.weight.shape[0] if m.training else y.shape[1]
        return m.c(y.view(y.size(0), width, -1).view(y.shape))

    model = net(forward, a=conv(4, 8), b=conv(8, 12), c=conv(12, 5))
    x = torch.randn(2, 4, 8, 8).double()
    asked = {'bypass': 'depthwise', 'unit': 'filters'}
    assert frozen(model, x, **asked)['b'] == MEASURED
    result = agree(model, x, keep=0.0, **asked)
    assert result.slim.train()(x).shape == (2, 5, 8, 8)


def test_channels_go_where_a_weight_is_asked_for_its_size(
    net, conv, image, agree
):
    """They go from the weight, too, with the branch beside it."""

    def forward(m, x):
        y = m.b(m.a(x).relu())
        return m.c(y.view(y.size(0), m.b.weight.shape[0], -1).view(y.shape))

    model = net(forward, a=conv(3, 8), b=conv(8, 12), c=conv(12, 5))
    result = agree(model, image, bypass='depthwise')
    assert result.groups == {'a': 8, 'b': 12}
    assert isinstance(result.slim.b, Bypassed)


def test_filters_need_a_bypass(model, images):
    with pytest.raises(PruningError, match="unit='filters' needs a bypass"):
        attach(model, images, unit='filters')
