# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Convolutions: plain, grouped, transposed, of weights that are computed."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core.trace import trace


def rows(result, name, dim=0):
    """Kept indices of a weight."""
    return result.plan.slices[f'{name}.weight'][dim].index


@pytest.mark.parametrize('bias', [True, False])
def test_convolution(net, conv, image, agree, bias):
    model = net(
        lambda m, x: m.b(m.a(x)),
        a=conv(3, 8, bias=bias, stride=2),
        b=conv(8, 5, bias=bias, dilation=2, padding=2),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8}
    assert rows(result, 'a') == rows(result, 'b', 1)
    assert (result.slim.a.out_channels, result.slim.b.in_channels) == (4, 4)


def test_convolution_in_one_dimension(net, agree):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x)).relu()),
        a=nn.Conv1d(3, 8, 3),
        norm=nn.BatchNorm1d(8),
        b=nn.Conv1d(8, 5, 3),
    )
    result = agree(model, torch.randn(2, 3, 12).double())
    assert result.groups == {'a': 8}


def test_convolution_in_three_dimensions(net, agree):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x)).relu()),
        a=nn.Conv3d(3, 8, 3),
        norm=nn.BatchNorm3d(8),
        b=nn.Conv3d(8, 5, 1),
    )
    result = agree(model, torch.randn(2, 3, 4, 5, 6).double())
    assert result.groups == {'a': 8}


def test_transposed_convolution(net, conv, image, agree):
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 8),
        b=nn.ConvTranspose2d(8, 6, 4, stride=2),
        c=conv(6, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8, 'b': 6}
    assert result.slim.b.weight.shape == (4, 3, 4, 4)
    assert (result.slim.b.in_channels, result.slim.b.out_channels) == (4, 3)


def test_grouped_transposed_convolution_is_frozen(net, conv, image, frozen):
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 8),
        b=nn.ConvTranspose2d(8, 6, 2, groups=2),
        c=conv(6, 5),
    )
    assert frozen(model, image) == {
        'a': 'read by a grouped transposed convolution',
        'c': 'output of the network',
    }


def test_convolution_of_channels_moved_into_the_batch(net, conv, agree):
    """Channel by channel, as RepMLP's blocks work: 8 rows for an image."""

    def forward(m, x):
        y = m.a(x)
        rows = y.reshape(-1, 1, 8, 8)
        return m.c(m.norm(m.b(rows)).reshape(len(x), -1, 8, 8))

    model = net(
        forward,
        a=conv(3, 8),
        b=conv(1, 1),
        norm=nn.BatchNorm2d(1),
        c=conv(8, 5),
    )
    result = agree(model, torch.randn(1, 3, 8, 8).double())
    assert result.groups == {'a': 8}


def test_few_groups_keep_the_same_positions(net, conv, image, agree):
    """2 groups of 4: the grouping stays, each group gets narrower."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 8),
        b=conv(8, 12, groups=2),
        c=conv(12, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 4, 'b': 6}
    assert result.slim.b.groups == 2
    assert result.slim.b.weight.shape == (6, 2, 3, 3)
    kept = rows(result, 'a')
    assert [k - 4 for k in kept[2:]] == list(kept[:2])


def test_many_groups_go_as_a_whole(net, conv, image, agree):
    """4 groups of 2: whole groups go, with their inputs and outputs."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 8),
        b=conv(8, 12, groups=4),
        c=conv(12, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 4}
    assert result.slim.b.groups == 2
    assert result.slim.b.weight.shape == (6, 2, 3, 3)


@pytest.mark.parametrize('multiplier', [1, 2])
def test_depthwise_convolution(net, conv, image, agree, multiplier):
    width = 8 * multiplier
    model = net(
        lambda m, x: m.c(m.norm(m.b(m.a(x))).relu()),
        a=conv(3, 8),
        b=conv(8, width, groups=8),
        norm=nn.BatchNorm2d(width),
        c=conv(width, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8}
    assert result.slim.b.groups == 4


def test_a_single_channel_is_never_removed(net, conv, image, frozen, agree):
    model = net(
        lambda m, x: m.d(m.c(m.b(m.a(x)))),
        a=conv(3, 1),
        b=conv(1, 1),
        c=conv(1, 8),
        d=conv(8, 5),
    )
    assert agree(model, image).groups == {'c': 8}


def test_layers_of_one_channel_have_their_name_in_the_table(net, conv, image):
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 1), b=conv(1, 1))
    calls = trace(model, lambda: model(image)).calls
    assert [call.name for call in calls] == ['a', 'b']


def test_a_shared_layer_called_twice(net, conv, image, agree):
    model = net(
        lambda m, x: m.c(m.b(m.b(m.a(x)).relu()).relu()),
        a=conv(3, 8),
        b=conv(8, 8),
        c=conv(8, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8}
    assert rows(result, 'b', 0) == rows(result, 'b', 1) == rows(result, 'a')


def test_a_weight_shared_by_two_layers(net, conv, image, agree):
    a, b, c = conv(3, 8), conv(8, 8), conv(8, 8)
    c.weight = b.weight
    model = net(
        lambda m, x: m.d(m.c(m.b(m.a(x)).relu()).relu()),
        a=a,
        b=b,
        c=c,
        d=conv(8, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8}
    assert result.slim.b.weight is result.slim.c.weight


def test_a_weight_of_another_name(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(functional.conv2d(x, m.kernel, padding=1)),
        kernel=nn.Parameter(torch.randn(8, 3, 3, 3)),
        b=conv(8, 5),
    )
    result = agree(model, image)
    assert result.slim.kernel.shape == (4, 3, 3, 3)
    result.model.pruner.reset()
    result.model.pruner.begin({'flops': 0.9}, 10)  # scores are read from it


def test_a_fixed_filter_in_a_buffer(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(
            functional.conv2d(m.a(x), m.blur, groups=m.blur.shape[0])
        ),
        a=conv(3, 8),
        blur=torch.rand(8, 1, 3, 3),
        b=conv(8, 5),
    )
    result = agree(model, image)
    assert result.slim.blur.shape == (4, 1, 3, 3)
    result.model.pruner.reset()
    result.model.pruner.begin({'flops': 0.9}, 10)


def test_a_weight_that_the_network_computes_is_frozen(
    net, conv, image, frozen
):
    def forward(m, x):
        kernel = m.b(x.mean((0, 2, 3))).view(5, 8, 1, 1)
        return functional.conv2d(m.a(x), kernel)

    model = net(forward, a=conv(3, 8), b=nn.Linear(3, 40))
    reason = 'multiplied by a weight that the network computes'
    assert reason in frozen(model, image).values()


class Standardised(nn.Conv2d):
    """Weight standardisation, arXiv 1903.10520."""

    def forward(self, x):
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        std = self.weight.std((1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (std + 1e-5)
        return functional.conv2d(x, weight, self.bias, padding=1)


def shifted(m, x):
    """A weight that is not zero where its parameter is masked."""
    return functional.conv2d(x, m.a.weight * m.scale + m.shift, padding=1)


def test_what_a_shifted_weight_emits_is_read_through_masks(
    net, conv, image, agree
):
    """As in the switchable atrous convolution, arXiv 2006.02334."""

    def forward(m, x):
        x = shifted(m, x)
        x = x + m.context(x.mean((2, 3), keepdim=True))
        return m.b(m.norm(x).relu())

    model = net(
        forward,
        a=conv(3, 8, bias=False),
        scale=torch.rand(8, 1, 1, 1),
        shift=torch.randn(8, 1, 1, 1),
        context=conv(8, 8, 1),
        norm=nn.BatchNorm2d(8),
        b=conv(8, 5),
    )
    assert agree(model, image).groups == {'a': 8}


def test_a_shifted_weight_cannot_leave_out_what_it_reads(
    net, conv, image, frozen
):
    """Behind a sigmoid a removed channel is one half."""
    model = net(
        lambda m, x: m.b(shifted(m, m.first(x).sigmoid())),
        first=conv(3, 8),
        a=conv(8, 6, bias=False),
        scale=torch.rand(6, 1, 1, 1),
        shift=torch.randn(6, 1, 1, 1),
        b=conv(6, 5),
    )
    found = frozen(model, image)
    assert found['first'] == 'contracted where it is not zero'


def test_a_computed_bias_is_not_zero(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(
            functional.conv2d(x, m.a.weight, m.a.bias.exp(), padding=1)
        ),
        a=conv(3, 8),
        b=conv(8, 5),
    )
    assert agree(model, image).groups == {'a': 8}


def test_a_weight_divided_by_its_norm_is_frozen(net, conv, image, frozen):
    """The norm of a masked filter is zero: 0 / 0."""

    def forward(m, x):
        norm = m.a.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return m.b(functional.conv2d(x, m.a.weight / norm, padding=1))

    model = net(forward, a=conv(3, 8, bias=False), b=conv(8, 5))
    assert frozen(model, image)['a'].startswith('measured by')
