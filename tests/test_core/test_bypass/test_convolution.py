# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import (
    ConvBranch,
    PruningError,
    PruningWarning,
    analyse,
    attach,
    register_branch,
    shrink,
)
from mmlapp.core.bypass import BRANCHES
from mmlapp.core.bypass.convolution import _pairs
from mmlapp.core.errors import LayerRefusedError

KINDS = ['depthwise', 'pointwise', 'grouped']
UNIT_NAMES = ['filters', 'channels']


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
@pytest.mark.parametrize('unit', UNIT_NAMES)
@pytest.mark.parametrize('kind', KINDS)
def test_masked_and_narrowed_agree(
    plain, normed, image, agree, kind, unit, keep
):
    for model in (plain(), normed()):
        result = agree(model, image, keep=keep, bypass=kind, unit=unit)
        assert result.plan.branches


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


@pytest.mark.parametrize('kind', KINDS)
def test_narrow_masks_the_bypass_too(plain, image, kind, mask_randomly):
    """Computes m (W(x) + B(x)), by hand."""
    model = plain()
    pruner = attach(model, image, bypass=kind)
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


@pytest.mark.parametrize('unit', UNIT_NAMES)
@pytest.mark.parametrize('kind', KINDS)
def test_the_reference_has_no_bypass(plain, image, count_macs, kind, unit):
    model = plain().eval()
    dense = count_macs(model, image)
    pruner = attach(model, image, bypass=kind, unit=unit)
    assert pruner.cost('flops').dense == dense
    full = count_macs(model, image)
    assert full > dense
    assert float(pruner.cost('flops')(torch.ones(len(pruner.gate)))) == full
    assert pruner.ratios()['flops'] == pytest.approx(full / dense)


def test_a_layer_may_lose_all_filters_to_its_bypass(plain, image):
    model = plain().eval()
    pruner = attach(model, image, bypass='depthwise', unit='filters')
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
    pruner = attach(model, image, bypass='depthwise')
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
    assert BRANCHES.build('depthwise', conv(*widths)).conv.groups == groups


@pytest.mark.parametrize(
    ('widths', 'groups'), [((16, 32), 8), ((12, 8), 4), ((6, 9), 3)]
)
def test_grouped_bypass(conv, widths, groups):
    assert BRANCHES.build('grouped', conv(*widths)).conv.groups == groups


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
    branch = BRANCHES.build(kind, layer)
    assert branch(x).shape == layer(x).shape
    assert branch.conv.bias is None


WITHOUT = {
    'transposed': (
        nn.ConvTranspose2d(8, 8, 3),
        'it is a transposed convolution',
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
    with pytest.raises(LayerRefusedError, match=re.escape(reason)):
        BRANCHES.build('pointwise', layer)


def test_layers_without_a_bypass_are_told(net, conv, image):
    model = net(
        lambda m, x: m.d(m.c(m.b(m.a(x)))),
        a=conv(3, 8),
        b=conv(8, 8),
        c=conv(8, 8, groups=4),
        d=conv(8, 5, 1),
    )
    analysis = analyse(model, lambda: model(image), bypass='pointwise')
    assert set(analysis.branches) >= {'b'}
    assert analysis.without['c'] == 'it is a grouped convolution'


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


@pytest.mark.parametrize('unit', UNIT_NAMES)
def test_a_bypass_for_nobody_is_told(net, conv, image, unit):
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8, 1), b=conv(8, 5, 1))
    with pytest.warns(
        PruningWarning, match=r"'pointwise' was added to no layer.*would cost"
    ):
        analyse(
            model,
            lambda: model(image),
            bypass='pointwise',
            unit=unit,
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
    result = agree(model, image, bypass=kind)
    assert 'c' in result.plan.branches
    assert ('b' in result.plan.branches) == isinstance(act, nn.PReLU)


@pytest.mark.parametrize('unit', UNIT_NAMES)
@pytest.mark.parametrize('kind', KINDS)
def test_a_layer_that_runs_twice(net, conv, image, agree, kind, unit):
    model = net(
        lambda m, x: m.c(m.b(m.b(m.a(x)).relu()).relu()),
        a=conv(3, 8),
        b=conv(8, 8),
        c=conv(8, 5),
    )
    result = agree(model, image, bypass=kind, unit=unit)
    assert 'b' in result.plan.branches


@pytest.mark.parametrize('unit', UNIT_NAMES)
def test_layers_that_share_a_weight(net, conv, image, agree, unit):
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
    result = agree(model, image, bypass='depthwise', unit=unit)
    assert 'd' in result.plan.branches
    assert not {'b', 'c'} & set(result.plan.branches)


def test_a_bypass_of_ones_own(net, conv, image, agree):
    @register_branch('test_half')
    class Half(ConvBranch):
        def make(self, layer):
            return self.beside(layer, groups=2)

    model = net(
        lambda m, x: m.c(m.b(m.a(x)).relu()),
        a=conv(3, 8),
        b=conv(8, 16),
        c=conv(16, 6),
    )
    result = agree(model, image, bypass='test_half')
    assert 'b' in result.plan.branches
    assert BRANCHES['test_half'] is Half


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
    class Wrong(ConvBranch):
        def make(self, layer):
            return wrong(layer)

    monkeypatch.setitem(BRANCHES._entries, 'wrong', Wrong)
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), b=conv(8, 5))
    with pytest.raises(PruningError, match=r'Wrong.make returned.*same chan'):
        attach(model, image, bypass='wrong')


@pytest.mark.parametrize(
    ('arguments', 'match'),
    [
        (dict(type='wide'), "bypass='wide' is unknown.*depthwise, grouped"),
        (dict(placement='fill'), "unit='channels' or unit='filters', not by"),
        (dict(width=2), 'it takes norm'),
    ],
)
def test_unknown_choices(model, images, arguments, match):
    with pytest.raises(PruningError, match=match):
        attach(model, images, bypass={'type': 'depthwise', **arguments})


def test_filters_need_a_bypass(model, images):
    with pytest.raises(PruningError, match="unit='filters' needs a bypass"):
        attach(model, images, unit='filters')


@pytest.mark.parametrize('unit', UNIT_NAMES)
@pytest.mark.parametrize('keep', [0.2, 0.5])
@pytest.mark.parametrize('kind', KINDS)
def test_a_branch_with_a_norm(plain, normed, image, agree, kind, unit, keep):
    """Masked, narrowed, counted: with the layer and with a norm behind."""
    bypass = dict(type=kind, norm=True)
    for model in (plain(), normed()):
        result = agree(model, image, keep=keep, bypass=bypass, unit=unit)
        assert any('bypass.norm' in n for n in result.slim.state_dict())


def test_a_norm_that_is_left_alone_still_shifts(net, conv, image, agree):
    """Depthwise pairs that lost one end each: the norm's shift stays."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x).relu())),
        a=conv(3, 4),
        b=conv(4, 4),
        c=conv(4, 5),
    )
    bypass = dict(type='depthwise', norm=True)
    pruner = attach(model.eval(), image, bypass=bypass)
    with torch.no_grad():
        model.b.bypass.norm.bias.normal_()
        model.b.bypass.norm.running_mean.normal_()
    kept = torch.tensor([0, 1, 6, 7])  # two of a, the other two of b
    pruner.set_mask(torch.isin(torch.arange(8), kept))
    with torch.no_grad():
        masked = model(image)
        slim = shrink(model, pruner.plan())
        torch.testing.assert_close(slim(image), masked)
    assert slim.b.bypass.norm.bias.any()


SHAPES = [(8, 8, 8), (8, 16, 8), (12, 8, 4), (6, 9, 3)]


@pytest.mark.parametrize(('inputs', 'outputs', 'groups'), SHAPES)
def test_pairs_by_loops(inputs, outputs, groups):
    a, b = torch.arange(inputs) + 100, torch.arange(outputs)
    expected = {
        (i + 100, o)
        for i in range(inputs)
        for o in range(outputs)
        if i // (inputs // groups) == o // (outputs // groups)
    }
    first, second = _pairs(groups, a, b)
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected


@pytest.fixture
def depthwise():
    return BRANCHES.build('depthwise', nn.Conv2d(8, 8, 3, padding=1)).eval()


def test_what_keeps_all_is_left_alone(depthwise):
    conv = depthwise.conv
    branch, heirs = depthwise.narrow(
        torch.ones(8).bool(), torch.ones(8).bool()
    )
    assert branch is depthwise
    assert branch.conv is conv
    assert not heirs


def test_a_plain_rest_is_a_plain_convolution(depthwise):
    """The same channels at both ends of a depthwise bypass."""
    kept = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0]).bool()
    weight = depthwise.conv.weight
    branch, heirs = depthwise.narrow(kept, kept)
    assert isinstance(branch.conv, nn.Conv2d)
    assert branch.conv.groups == 4
    torch.testing.assert_close(branch.conv.weight, weight[kept])
    assert [heir.new for heir in heirs[weight]] == [branch.conv.weight]


def test_the_mode_is_kept(depthwise):
    kept = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0]).bool()
    branch, _ = depthwise.narrow(kept, kept.roll(2))
    assert not branch.conv.training


def test_nothing_is_left(depthwise):
    first = torch.arange(8) < 4
    branch, heirs = depthwise.narrow(first, ~first)
    assert branch is None
    assert list(heirs.values()) == [[]]
