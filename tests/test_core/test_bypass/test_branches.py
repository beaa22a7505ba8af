# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import (
    Bypass,
    PruningError,
    PruningWarning,
    analyse,
    attach,
    register_bypass,
    shrink,
)
from mmlapp.core.bypass.branches import BYPASSES, build_bypass

KINDS = ['depthwise', 'pointwise', 'grouped']
PLACEMENTS = ['fill', 'narrow']


@pytest.fixture
def plain(net, conv):
    """Convolutions with biases and without norms."""

    def make():
        return net(
            lambda m, x: m.d(m.c(m.b(m.a(x)).relu()).relu()),
            a=conv(3, 8),
            b=conv(8, 16, stride=2),
            c=conv(16, 12, dilation=2, padding=2, bias=False),
            d=conv(12, 5),
        )

    return make


@pytest.fixture
def normed(net, conv):
    """A residual block with norms and a zero-padded shortcut."""

    def forward(m, x):
        x = m.stem_norm(m.stem(x)).relu()
        y = m.norm1(m.conv1(x)).relu()
        y = m.norm2(m.conv2(y))
        short = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 8))
        return m.head((y + short).relu().mean((2, 3)))

    def make():
        return net(
            forward,
            stem=conv(3, 8, bias=False),
            stem_norm=nn.BatchNorm2d(8),
            conv1=conv(8, 16, stride=2, bias=False),
            norm1=nn.BatchNorm2d(16),
            conv2=conv(16, 16, bias=False),
            norm2=nn.BatchNorm2d(16),
            head=nn.Linear(16, 5),
        )

    return make


@pytest.mark.parametrize('keep', [0.3, 0.5, 0.9])
@pytest.mark.parametrize('placement', PLACEMENTS)
@pytest.mark.parametrize('kind', KINDS)
def test_masked_and_narrowed_agree(
    plain, normed, image, agree, kind, placement, keep
):
    bypass = Bypass(kind, placement)
    for model in (plain(), normed()):
        result = agree(model, image, keep=keep, bypass=bypass)
        assert result.plan.bypasses


@pytest.mark.parametrize('kind', KINDS)
def test_fill_adds_the_bypass_to_what_is_left(
    plain, image, kind, mask_randomly
):
    """Computes m W(x) + B(x), by hand."""
    model = plain()
    pruner = attach(model, image, bypass=Bypass(kind, 'fill'))
    weight, bias = model.b.weight.detach(), model.b.bias.detach()
    mask_randomly(pruner)
    start = [i.name for i in pruner.groups].index('b')
    mask = pruner.mask.split([i.size for i in pruner.groups])[start]
    x = torch.randn(2, 8, 8, 8).double()
    main = functional.conv2d(x, weight, bias, stride=2, padding=1)
    expected = main * mask.view(1, -1, 1, 1) + model.b.bypass(x)
    torch.testing.assert_close(model.b(x), expected)


@pytest.mark.parametrize('kind', KINDS)
def test_narrow_masks_the_bypass_too(plain, image, kind, mask_randomly):
    """Computes m (W(x) + B(x)), by hand."""
    model = plain()
    pruner = attach(model, image, bypass=Bypass(kind, 'narrow'))
    parameters = dict(model.b.named_parameters())
    x = torch.randn(2, 8, 8, 8).double()
    main = functional.conv2d(
        x, parameters['weight'], parameters['bias'], stride=2, padding=1
    )
    both = main + model.b.bypass(x)
    mask_randomly(pruner)
    start = [i.name for i in pruner.groups].index('b')
    mask = pruner.mask.split([i.size for i in pruner.groups])[start]
    torch.testing.assert_close(model.b(x), both * mask.view(1, -1, 1, 1))


@pytest.mark.parametrize('placement', PLACEMENTS)
@pytest.mark.parametrize('kind', KINDS)
def test_the_reference_has_no_bypass(
    plain, image, count_macs, kind, placement
):
    model = plain().eval()
    dense = count_macs(model, image)
    pruner = attach(model, image, bypass=Bypass(kind, placement))
    assert pruner.cost('flops').dense == dense
    full = count_macs(model, image)
    assert full > dense
    assert float(pruner.cost('flops')(torch.ones(len(pruner.gate)))) == full
    assert pruner.ratios()['flops'] == pytest.approx(full / dense)


def test_a_layer_may_lose_all_filters_to_its_bypass(plain, image):
    model = plain().eval()
    pruner = attach(model, image, bypass=Bypass('depthwise', 'fill'))
    pruner.set_mask(torch.zeros_like(pruner.mask))
    masked = model(image)
    slim = shrink(copy.deepcopy(model), pruner.plan())
    assert slim.b.weight.shape == (0, 8, 3, 3)
    slim.b._conv_forward = None  # it must not run
    torch.testing.assert_close(slim(image), masked)


def test_a_narrowed_bypass_may_have_nothing_to_do(net, conv, image):
    """Depthwise pairs that lost one end each: no bypass is left."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 4),
        b=conv(4, 4),
        c=conv(4, 5),
    ).eval()
    pruner = attach(model, image, bypass=Bypass('depthwise'))
    pruner.set_mask(torch.tensor([1, 1, 0, 0, 0, 0, 1, 1]).bool())
    pruner.active = True
    masked = model(image)
    slim = shrink(copy.deepcopy(model), pruner.plan())
    assert slim.b.bypass is None
    torch.testing.assert_close(slim(image), masked)


@pytest.mark.parametrize(
    ('widths', 'groups'),
    [((8, 8), 8), ((8, 16), 8), ((16, 8), 8), ((12, 8), 4), ((9, 15), 3)],
)
def test_depthwise_where_widths_differ(conv, widths, groups):
    assert build_bypass(conv(*widths), 'depthwise').groups == groups


@pytest.mark.parametrize(
    ('widths', 'groups'), [((16, 32), 8), ((12, 8), 4), ((6, 9), 3)]
)
def test_grouped_bypass(conv, widths, groups):
    assert build_bypass(conv(*widths), 'grouped').groups == groups


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    'arguments',
    [
        dict(),
        dict(stride=2),
        dict(dilation=2, padding=2),
        dict(size=5, stride=3),
        dict(size=(1, 3), padding=(0, 1)),
    ],
)
@pytest.mark.parametrize('side', [7, 8])
def test_a_bypass_has_the_output_shape_of_its_layer(
    conv, kind, arguments, side
):
    layer = conv(8, 16, **arguments)
    x = torch.rand(1, 8, side, side)
    bypass = build_bypass(layer, kind)
    assert bypass(x).shape == layer(x).shape
    assert bypass.bias is None


WITHOUT = {
    'transposed': (
        nn.ConvTranspose2d(8, 8, 3),
        'a transposed convolution has no pointwise bypass',
    ),
    'linear': (nn.Linear(8, 8), 'Linear takes no bypass'),
    'padding in words': (
        nn.Conv2d(8, 8, 3, padding='same'),
        "padding='same'",
    ),
    'depthwise': (
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        'it is depthwise itself',
    ),
    'of an even kernel': (nn.Conv2d(8, 8, 2), 'not centred'),
    'without padding': (nn.Conv2d(8, 8, 3), 'not centred'),
    'as dear as the layer': (nn.Conv2d(8, 8, 1), 'would cost 100%'),
}


@pytest.mark.parametrize('name', WITHOUT)
def test_layers_without_a_bypass(name):
    layer, reason = WITHOUT[name]
    assert reason in build_bypass(layer, 'pointwise')


def test_none_builds_none(conv):
    assert build_bypass(conv(8, 8), 'none') == 'no bypass was asked for'


def test_layers_without_a_bypass_are_told(net, conv, image):
    model = net(
        lambda m, x: m.d(m.c(m.b(m.a(x)))),
        a=conv(3, 8),
        b=conv(8, 8),
        c=conv(8, 8, groups=4),
        d=conv(8, 5, 1),
    )
    analysis = analyse(
        model, lambda: model(image), bypass=Bypass('pointwise', 'narrow')
    )
    assert set(analysis.bypasses) >= {'b'}
    assert analysis.without['c'] == 'it is a grouped convolution'


def test_fill_leaves_layers_without_a_bypass_alone(net, conv, image, agree):
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 8, 1),
        b=conv(8, 8),
        c=conv(8, 5, 1),
    )
    result = agree(model, image, bypass=Bypass('pointwise', 'fill'))
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
        bypass=Bypass('depthwise', 'fill'),
    )
    assert result.groups == {'a': size}
    assert result.slim.a.groups == layer.groups


def test_fill_may_prune_what_leaves_the_network(net, conv, image, agree):
    """The output keeps its width; only filters go."""
    model = net(lambda m, x: m.a(x), a=conv(6, 8))
    image = torch.randn(2, 6, 8, 8).double()
    result = agree(model, image, bypass=Bypass('pointwise', 'fill'))
    assert result.groups == {'a': 8}


@pytest.mark.parametrize('placement', PLACEMENTS)
def test_a_bypass_for_nobody_is_told(net, conv, image, placement):
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8, 1), b=conv(8, 5, 1))
    with pytest.warns(
        PruningWarning, match=r"'pointwise' was added to no layer.*would cost"
    ):
        analyse(
            model,
            lambda: model(image),
            bypass=Bypass('pointwise', placement),
        )


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    'act', [nn.Sigmoid(), nn.PReLU(8), nn.Softplus()], ids=repr
)
def test_a_bypass_that_reads_what_is_not_zero(
    net, conv, image, agree, kind, act
):
    model = net(
        lambda m, x: m.d(m.c(m.b(m.act(m.a(x))).relu()).relu()),
        a=conv(3, 8),
        act=act,
        b=conv(8, 16),
        c=conv(16, 8),
        d=conv(8, 5),
    )
    result = agree(model, image, bypass=Bypass(kind))
    assert 'c' in result.plan.bypasses
    assert ('b' in result.plan.bypasses) == isinstance(act, nn.PReLU)


@pytest.mark.parametrize('placement', PLACEMENTS)
@pytest.mark.parametrize('kind', KINDS)
def test_a_layer_that_runs_twice(net, conv, image, agree, kind, placement):
    model = net(
        lambda m, x: m.c(m.b(m.b(m.a(x)).relu()).relu()),
        a=conv(3, 8),
        b=conv(8, 8),
        c=conv(8, 5),
    )
    result = agree(model, image, bypass=Bypass(kind, placement))
    assert 'b' in result.plan.bypasses


@pytest.mark.parametrize('placement', PLACEMENTS)
def test_layers_that_share_a_weight(net, conv, image, agree, placement):
    b, c = conv(8, 8), conv(8, 8)
    c.weight = b.weight
    model = net(
        lambda m, x: m.e(m.d(m.c(m.b(m.a(x)).relu()).relu())),
        a=conv(3, 8),
        b=b,
        c=c,
        d=conv(8, 8),
        e=conv(8, 5),
    )
    result = agree(model, image, bypass=Bypass('depthwise', placement))
    assert 'd' in result.plan.bypasses
    assert not {'b', 'c'} & set(result.plan.bypasses)


def test_a_bypass_of_ones_own(net, conv, image, agree):
    @register_bypass('test_half')
    def half(layer):
        return nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            groups=2,
            bias=False,
            dtype=layer.weight.dtype,
        )

    model = net(
        lambda m, x: m.c(m.b(m.a(x)).relu()),
        a=conv(3, 8),
        b=conv(8, 16),
        c=conv(16, 6),
    )
    result = agree(model, image, bypass=Bypass('test_half'))
    assert 'b' in result.plan.bypasses
    assert BYPASSES['test_half'] is half


@pytest.mark.parametrize(
    'wrong',
    [
        lambda c: nn.Conv2d(c.in_channels, c.out_channels, 1),
        lambda c: nn.Conv2d(c.in_channels, c.out_channels // 2, 1, bias=False),
        lambda c: nn.Identity(),
    ],
)
def test_a_bypass_of_ones_own_that_does_not_fit(
    net, conv, image, monkeypatch, wrong
):
    monkeypatch.setitem(BYPASSES._entries, 'wrong', wrong)
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), b=conv(8, 5))
    with pytest.raises(PruningError, match=r"bypass='wrong' made.*same chan"):
        attach(model, image, bypass=Bypass('wrong'))


@pytest.mark.parametrize(
    ('arguments', 'match'),
    [
        (dict(type='wide'), "bypass='wide' is unknown.*depthwise, grouped"),
        (dict(placement='both'), "placement='both' is unknown.*fill, narrow"),
        (dict(type='none', placement='fill'), 'nothing would fill'),
    ],
)
def test_unknown_choices(arguments, match):
    with pytest.raises(PruningError, match=match):
        Bypass(**{'type': 'depthwise', **arguments})
