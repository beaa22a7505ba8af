# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Weights that are computed: narrowed they are those of what is left."""

import pytest
import torch
from mmcv.cnn import ConvAWS2d, ConvWS2d
from torch import nn
from torch.nn import functional, utils
from torch.nn.utils import parametrizations, parametrize

from mmlapp.core import attach

ROWS = (1, 2, 3)


class Computed(nn.Module):
    """A parametrization that is a function of the stored weight."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, weight):
        return self.function(weight)


class Gained(nn.Module):
    """Scales every filter by a number of its own."""

    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(channels, 1, 1, 1) + 0.5)

    def forward(self, weight):
        return weight * self.gain


class ComputingConv(nn.Conv2d):
    """A convolution whose own forward computes its weight."""

    function = None

    def forward(self, x):
        weight = type(self).function(self.weight)
        return functional.conv2d(
            x, weight, self.bias, 1, self.padding, groups=self.groups
        )


class Holder(nn.Module):
    """Computes the weight of a convolution that it never calls."""

    function = None

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.conv = nn.Conv2d(*args, **kwargs)

    def forward(self, x):
        conv = self.conv
        weight = type(self).function(conv.weight)
        return functional.conv2d(
            x, weight, conv.bias, 1, conv.padding, groups=conv.groups
        )


def batch_norm(weight):
    flat = weight.reshape(1, len(weight), -1)
    flat = functional.batch_norm(flat, None, None, training=True)
    return flat.reshape_as(weight)


FUNCTIONS = {
    'batch norm': batch_norm,
    'centred': lambda w: w - w.mean(ROWS, keepdim=True),
    'standardised': lambda w: (
        (w - w.mean(ROWS, keepdim=True)) / w.std(ROWS, keepdim=True)
    ),
    'layer norm': lambda w: functional.layer_norm(w, w.shape[1:]),
    'of unit length': lambda w: w / w.norm(2, ROWS, keepdim=True),
    'largest one': lambda w: w / w.abs().amax(ROWS, keepdim=True),
    'softmax': lambda w: w.flatten(1).softmax(1).view_as(w),
}


def parametrised(function, *args, **kwargs):
    layer = nn.Conv2d(*args, **kwargs)
    parametrize.register_parametrization(layer, 'weight', Computed(function))
    return layer


def own_forward(function, *args, **kwargs):
    kind = type('Own', (ComputingConv,), {'function': staticmethod(function)})
    return kind(*args, **kwargs)


def held(function, *args, **kwargs):
    kind = type('Held', (Holder,), {'function': staticmethod(function)})
    return kind(*args, **kwargs)


# How a layer computes its weight, and where that is stored.
BUILDERS = {
    parametrised: lambda m: m.parametrizations.weight.original,
    own_forward: lambda m: m.weight,
    held: lambda m: m.conv.weight,
}


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('build', BUILDERS)
def test_weights_computed_over_their_inputs(
    net, conv, image, agree, build, name
):
    """Each is the same function of what is left of the stored weight."""
    function = FUNCTIONS[name]
    model = net(
        lambda m, x: m.c(m.b(m.a(x)).sigmoid()),
        a=conv(3, 8),
        b=build(function, 8, 12, 3, padding=1, bias=False),
        c=conv(12, 5),
    )
    result = agree(model, image)
    assert sorted(result.groups.values()) == [8, 12]
    stored = BUILDERS[build](result.slim.b)
    assert stored.shape == (6, 4, 3, 3)
    x = result.slim.a(image)
    expected = functional.conv2d(x, function(stored), padding=1)
    torch.testing.assert_close(result.slim.b(x), expected)


class Own(nn.Module):
    """A function of all channels, with a scale and a shift."""

    function = None

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels) + 0.5)
        self.shift = nn.Parameter(torch.rand(channels))
        self.shape = (channels,)

    def forward(self, x):
        y = type(self).function(x, self.shape)
        return y * self.scale[:, None, None] + self.shift[:, None, None]


def last(function):
    """Of channels that come last."""
    return lambda x, shape: function(x.movedim(1, -1), shape).movedim(-1, 1)


OF_THE_INPUT = {
    'pixel norm': lambda x, _: (
        x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    ),
    'without bias': last(lambda x, _: x / x.var(-1, keepdim=True).sqrt()),
    'centred': lambda x, _: x - x.mean((1, 2, 3), keepdim=True),
    'softmax': lambda x, _: x.softmax(1),
    'largest': lambda x, _: x / (1 + x.abs().amax(1, keepdim=True)),
    'normalised exponents': lambda x, _: x - x.logsumexp(1, keepdim=True),
    'sums': lambda x, _: x.cumsum(1),
    'layer norm of a shape': last(functional.layer_norm),
    'layer norm of the input': last(
        lambda x, _: functional.layer_norm(x, x.shape[-1:])
    ),
    'rms norm': last(functional.rms_norm),
    'group norm': lambda x, _: functional.group_norm(x, 1),
    'of space': lambda x, _: functional.layer_norm(x, x.shape[2:]),
}


@pytest.mark.parametrize('name', OF_THE_INPUT)
def test_modules_that_compute_over_their_channels(
    net, conv, image, agree, name
):
    """Whatever it is called, it sees the living channels alone."""
    function = staticmethod(OF_THE_INPUT[name])
    kind = type('Own', (Own,), {'function': function})
    model = net(
        lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 8), b=kind(8), c=conv(8, 5)
    )
    assert agree(model, image).groups == {'a': 8}


def test_what_a_module_makes_inside_is_frozen(net, conv, image, frozen):
    """Places of a queue are numbered by code that knows how many."""

    class Queue(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('queue', torch.randn(8, 6))

        def forward(self, x):
            like = (x.mean((2, 3)) @ self.queue).softmax(-1)
            return x + (like @ self.queue.T)[..., None, None]

    model = net(
        lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 8), b=Queue(), c=conv(8, 5)
    )
    reasons = frozen(model, image)
    assert reasons.keys() == {'b', 'c'}
    assert reasons['b'] == 'aten::_softmax over channels'


def test_groups_of_a_norm_stay_equally_large(net, conv, image, agree):
    function = staticmethod(lambda x, _: functional.group_norm(x, 2))
    kind = type('Own', (Own,), {'function': function})
    model = net(
        lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 8), b=kind(8), c=conv(8, 5)
    )
    assert agree(model, image).groups == {'a': 4}


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('kind', [ConvWS2d, ConvAWS2d])
def test_standardised_weights(net, conv, image, agree, kind, groups):
    """Mean and deviation of a filter are those of its living inputs."""
    model = net(
        lambda m, x: m.c(m.norm(m.b(m.a(x))).relu()),
        a=kind(3, 8, 3, padding=1),
        b=kind(8, 12, 3, padding=1, groups=groups),
        norm=nn.GroupNorm(1, 12),
        c=conv(12, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8 // groups, 'b': 12 // groups}
    assert type(result.slim.b) is kind


class GainedConv(nn.Conv2d):
    """Standardised, with a gain per filter (arXiv 2101.08692)."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1))

    def forward(self, x):
        weight = functional.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * 2).view(-1),
            training=True,
        )
        weight = weight.reshape_as(self.weight)
        x = functional.pad(x, (1, 1, 1, 1))
        return functional.conv2d(x, weight, self.bias)


@pytest.mark.parametrize(('kernel', 'floor'), [(1, 2), (3, 1)])
def test_a_deviation_is_taken_of_two_numbers_at_least(
    net, conv, image, kernel, floor
):
    """Of one it would be no number; of 1 x 3 x 3 weights it is one."""

    class Standardised(ComputingConv):
        function = FUNCTIONS['standardised']

    model = net(
        lambda m, x: m.last(m.middle(m.first(x))),
        first=conv(3, 8),
        middle=Standardised(8, 6, kernel),
        last=conv(6, 4),
    )
    (first, _) = attach(model, image).groups
    plan = {'first': floor, 'middle': 1}
    assert max(first.floor, 1) == plan[first.name]


def test_standardised_weights_with_a_gain(net, conv, image, agree):
    model = net(
        lambda m, x: m.c(m.b(m.a(x).relu()).relu()),
        a=GainedConv(3, 8, 3),
        b=GainedConv(8, 12, 3),
        c=conv(12, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8, 'b': 12}
    assert result.slim.b.gain.shape == (6, 1, 1, 1)
    assert result.slim.b.out_channels == 6


def test_the_gate_learns_through_a_gain(net, conv, image, mask_randomly):
    """A scaled filter is standardised again; its gain is not."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x).relu()).relu()),
        a=conv(3, 8),
        b=GainedConv(8, 12, 3),
        c=conv(12, 5),
    ).eval()
    pruner = attach(model, image)
    mask_randomly(pruner)
    with torch.no_grad():
        plain = model(image)
        pruner.gate.mul_(0.5)
        assert not torch.allclose(model(image), plain)


@pytest.mark.parametrize('build', [parametrised, own_forward])
def test_rows_of_tokens(net, agree, build):
    """A linear layer, whose channels come last."""

    class Centred(nn.Linear):
        def forward(self, x):
            weight = self.weight - self.weight.mean(1, keepdim=True)
            return functional.linear(x, weight, self.bias)

    layer = Centred(8, 12)
    if build is parametrised:
        layer = nn.Linear(8, 12)
        centred = Computed(lambda w: w - w.mean(1, keepdim=True))
        parametrize.register_parametrization(layer, 'weight', centred)
    model = net(
        lambda m, x: m.c(m.b(m.a(x).sigmoid()).relu()),
        a=nn.Linear(3, 8),
        b=layer,
        c=nn.Linear(12, 5),
    )
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    assert sorted(agree(model, x).groups.values()) == [8, 12]


def test_a_block_that_calls_others_cannot_run_on_what_lives(
    net, conv, image, frozen
):
    model = net(
        lambda m, x: m.b(
            functional.conv2d(m.a(x), FUNCTIONS['centred'](m.weight))
        ),
        a=conv(3, 8),
        weight=nn.Parameter(torch.randn(6, 8, 1, 1)),
        b=conv(6, 5),
    )
    assert frozen(model, image)['a'] == 'reduced over channels by aten::mean'


def test_a_weight_of_another_module_is_frozen(net, conv, image, frozen):
    """What the module stores is not what it would be narrowed by."""

    class Borrowing(nn.Module):
        def forward(self, x, weight):
            return functional.conv2d(x, FUNCTIONS['centred'](weight))

    model = net(
        lambda m, x: m.c(m.b(m.a(x), m.weight)),
        a=conv(3, 8),
        weight=nn.Parameter(torch.randn(6, 8, 1, 1)),
        b=Borrowing(),
        c=conv(6, 5),
    )
    assert frozen(model, image)['a'] == 'reduced over channels by aten::mean'


def test_a_forward_of_one_object_is_frozen(net, conv, image, frozen):
    """Its class does not run it: neither would a twin of it."""
    layer = conv(8, 6, bias=False)
    centred = FUNCTIONS['centred']

    def forward(x):
        return functional.conv2d(x, centred(layer.weight), padding=1)

    layer.forward = forward
    model = net(
        lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 8), b=layer, c=conv(6, 5)
    )
    assert frozen(model, image)['a'] == 'reduced over channels by aten::mean'


@pytest.mark.parametrize(
    'function',
    [torch.tanh, torch.exp, functional.softplus, lambda w: w * w.detach()],
)
def test_parametrizations_by_element(net, conv, image, agree, function):
    """Zero or not where a channel is removed."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x).sigmoid())),
        a=conv(3, 8),
        b=parametrised(function, 8, 12, 3, padding=1),
        c=conv(12, 5),
    )
    assert sorted(agree(model, image).groups.values()) == [8, 12]


def test_a_parametrization_with_a_number_for_each_filter(
    net, conv, image, agree
):
    layer = nn.Conv2d(8, 12, 3, padding=1)
    parametrize.register_parametrization(layer, 'weight', Gained(12))
    model = net(
        lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 8), b=layer, c=conv(12, 5)
    )
    result = agree(model, image)
    assert sorted(result.groups.values()) == [8, 12]
    (gained,) = result.slim.b.parametrizations.weight
    assert gained.gain.shape == (6, 1, 1, 1)


@pytest.mark.parametrize('name', ['matrix_exp', 'cayley', 'householder'])
def test_orthogonal_weights_are_frozen(net, conv, image, frozen, name):
    """Every filter depends on all others."""
    layer = parametrizations.orthogonal(
        nn.Conv2d(8, 6, 3, padding=1), orthogonal_map=name
    )
    model = net(
        lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 8), b=layer, c=conv(6, 5)
    )
    reason = 'multiplied by a weight that the network computes'
    assert frozen(model, image)['a'] == reason


@pytest.mark.parametrize('normed', [False, True])
@pytest.mark.parametrize('old', [False, True])
def test_spectral_norm_is_that_of_what_is_left(
    net, conv, image, agree, old, normed
):
    r"""W / sigma with sigma = u^T W v of the kept rows and columns."""
    norm = utils.spectral_norm if old else parametrizations.spectral_norm
    model = net(
        lambda m, x: m.c(m.norm(m.b(m.a(x))).relu()),
        a=conv(3, 8),
        b=norm(nn.Conv2d(8, 6, 3, padding=1)),
        norm=nn.BatchNorm2d(6) if normed else nn.Identity(),
        c=conv(6, 5),
    )
    result = agree(model, image)
    assert sorted(result.groups.values()) == [6, 8]
    layer = result.slim.b
    if old:
        weight, u, v = layer.weight_orig, layer.weight_u, layer.weight_v
    else:
        (part,) = layer.parametrizations.weight
        u, v = part._u, part._v
        weight = layer.parametrizations.weight.original
    assert weight.shape == (3, 4, 3, 3)
    sigma = torch.einsum('o,oi,i', u, weight.flatten(1), v)
    torch.testing.assert_close(layer.weight, weight / sigma)
    assert layer.in_channels == 4


@pytest.mark.parametrize('norm', ['spectral_norm', 'weight_norm'])
def test_training_with_masks_is_that_of_the_small_network(
    net, conv, image, agree, norm
):
    """Power iterations of a masked network are those of the narrowed one."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 8),
        b=getattr(parametrizations, norm)(nn.Conv2d(8, 6, 3, padding=1)),
        c=conv(6, 5),
    )
    result = agree(model, image)
    for network in (result.model, result.slim):
        network.train()
    for _ in range(3):
        masked, narrowed = result.model(image), result.slim(image)
    torch.testing.assert_close(masked, narrowed)


def test_one_length_for_a_whole_weight(net, conv, image, agree):
    r"""One g v / |v| with |v| over all that is left."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x).sigmoid())),
        a=conv(3, 8),
        b=parametrizations.weight_norm(
            nn.Conv2d(8, 6, 3, padding=1), dim=None
        ),
        c=conv(6, 5),
    )
    result = agree(model, image)
    assert sorted(result.groups.values()) == [6, 8]
    stored = result.slim.b.parametrizations.weight
    expected = stored.original0 * stored.original1 / stored.original1.norm()
    torch.testing.assert_close(result.slim.b.weight, expected)


class Neighbours(nn.Module):
    """Efficient channel attention (arXiv 1910.03151)."""

    def __init__(self, size=3, **arguments):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, size, bias=False, **arguments)

    def forward(self, x):
        y = self.conv(x.mean((2, 3))[:, None])
        return x * y.sigmoid().transpose(1, 2)[..., None]


@pytest.mark.parametrize('groups', [None, 2])
def test_neighbours_are_those_that_are_left(net, conv, image, agree, groups):
    norm = nn.Identity() if groups is None else nn.GroupNorm(groups, 8)
    model = net(
        lambda m, x: m.c(m.b(m.norm(m.a(x)))),
        a=conv(3, 8),
        norm=norm,
        b=Neighbours(padding=1),
        c=conv(8, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8 // (groups or 1)}
    x = result.slim.norm(result.slim.a(image))
    means = functional.pad(x.mean((2, 3)), (1, 1)).unfold(1, 3, 1)
    scale = (means @ result.slim.b.conv.weight[0, 0]).sigmoid()
    torch.testing.assert_close(result.slim.b(x), x * scale[..., None, None])


def test_neighbours_of_which_fewer_come_out_are_frozen(
    net, conv, image, frozen
):
    model = net(
        lambda m, x: m.b.conv(m.a(x).mean((2, 3))[:, None]),
        a=conv(3, 8),
        b=Neighbours(),
    )
    assert frozen(model, image)['a'] == 'convolved along its channels'
