# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Branches of several convolutions, which merge into their layers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import ChannelPlan, PruningError, attach, merge_bypasses
from mmlapp.core import narrow as narrow_to
from mmlapp.core.bypass import BRANCHES
from mmlapp.core.bypass.beside import Bypassed
from mmlapp.core.bypass.parallel import centred
from mmlapp.core.errors import LayerRefusedError

KINDS = ['asymmetric', 'repvgg', 'twin']
# The plain ones have the same choice.
MERGED = [
    *KINDS,
    dict(type='depthwise', merge=True),
    dict(type='pointwise', norm=True, merge=True),
]


def chain(net, conv, **case):
    """The second layer is narrowed at both ends, and has an identity."""
    return net(
        lambda m, x: m.c(m.b(m.a(x).relu()).relu()),
        a=conv(3, 12),
        b=conv(12, 12, **case),
        c=conv(12, 5),
    )


def counted(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('keep', [0.3, 0.8])
@pytest.mark.parametrize('kind', KINDS)
def test_masked_and_narrowed_agree(net, conv, image, agree, kind, keep):
    """Branches that stay are counted, as torch counts them."""
    model = chain(net, conv, bias=False)
    bypass = dict(type=kind, merge=False)
    if kind == 'twin':
        with pytest.warns(UserWarning, match='100% of the layer'):
            attach(model, image, bypass=bypass)
        return
    result = agree(model, image, keep=keep, bypass=bypass)
    assert result.plan.branches.keys() >= {'b'}


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('kind', MERGED, ids=str)
def test_merged_branches_are_free_and_exact(
    net, conv, image, mask_randomly, count_macs, kind, bias
):
    torch.manual_seed(0)
    model = chain(net, conv, bias=bias).eval()
    dense = count_macs(model, image), counted(model)
    pruner = attach(model, image, bypass=kind)
    assert pruner.cost('flops').dense == dense[0]
    assert pruner.ratios()['flops'] == 1
    # A norm shifts, for which a layer without bias gets one.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, -2, 2)
            nn.init.uniform_(module.bias, -1, 1)
    mask_randomly(pruner, 0.5)
    masked, plan = model(image), pruner.plan()
    assert plan.branches
    slim = narrow_to(copy.deepcopy(model), plan).eval()
    torch.testing.assert_close(slim(image), masked)
    beside = count_macs(slim, image)
    assert set(merge_bypasses(slim, free=True).values()) == {None}
    torch.testing.assert_close(slim(image), masked)
    # What the budget counts is what is left.
    assert plan.costs['flops']['pruned'] == count_macs(slim, image) < beside
    assert plan.costs['parameters']['pruned'] == counted(slim)
    assert {type(m) for m in (slim.a, slim.b, slim.c)} == {nn.Conv2d}


def test_free_ones_alone_are_merged(net, conv, image, mask_randomly):
    model = chain(net, conv)
    pruner = attach(model, image, bypass='depthwise')
    mask_randomly(pruner, 0.5)
    narrow_to(model, pruner.plan())
    assert merge_bypasses(model, free=True) == {}
    assert isinstance(model.b, Bypassed)
    assert 'b' in merge_bypasses(model)


def test_what_is_left_keeps_its_name(conv):
    """An identity between channels that do not live together is gone."""
    branch = BRANCHES.build(dict(type='repvgg', norm=False), conv(4, 4))
    branch.parts = nn.ModuleList(reversed(branch.parts))
    weight = branch.parts[1].conv.weight[2:, :2]
    low = torch.arange(4) < 2
    narrowed, _ = branch.narrow(low, ~low)
    assert [*narrowed.state_dict()] == ['parts.1.conv.weight']
    x = torch.rand(1, 2, 3, 3, dtype=weight.dtype)
    torch.testing.assert_close(narrowed(x), functional.conv2d(x, weight))


def test_training_moves_every_branch(net, conv, image):
    model = chain(net, conv).train()
    attach(model, image, bypass='repvgg')
    model(image).square().sum().backward()
    branch = model.b.bypass
    assert len(branch.parts) == 2
    # The identity has fixed filters, and a norm that learns.
    assert branch.parts[1].conv.weight.unique().tolist() == [1]
    named = dict(branch.named_parameters())
    frozen = {n for n, p in named.items() if p.grad is None}
    assert frozen == {'parts.1.conv.weight'}
    assert all(
        p.grad.abs().sum() > 0 for p in named.values() if p.grad is not None
    )


def test_initialisers_leave_the_identity_alone(net, conv, image):
    """MMEngine sets all convolutions of a model that is built already."""
    model = chain(net, conv)
    attach(model, image, bypass='repvgg')
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight)
    model(image)
    point, identity = model.b.bypass.parts
    assert identity.conv.weight.unique().tolist() == [1]
    assert point.conv.weight.unique().numel() == 144


def test_initialisers_leave_the_identity_alone_without_a_forward(
    net, conv, image, mask_randomly
):
    """As when a network is pruned at once, before it ever ran."""
    model = chain(net, conv).eval()
    pruner = attach(model, image, bypass='repvgg')
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight)
    mask_randomly(pruner)
    slim = narrow_to(copy.deepcopy(model), pruner.plan())
    torch.testing.assert_close(slim(image), model(image))


@pytest.mark.parametrize(
    ('widths', 'stride', 'parts'),
    [((8, 8), 1, 2), ((8, 8), 2, 1), ((8, 16), 1, 1)],
)
def test_an_identity_where_it_fits(conv, widths, stride, parts):
    branch = BRANCHES.build('repvgg', conv(*widths, stride=stride))
    assert len(branch.parts) == parts


def test_a_branch_of_repvgg_is_what_the_paper_adds(conv):
    """BN(1x1 x) + BN(x) for an identity."""
    layer = conv(6, 6)
    branch = BRANCHES.build('repvgg', layer).eval()
    x = torch.rand(2, 6, 5, 5, dtype=layer.weight.dtype)
    point, identity = branch.parts
    weight = point.conv.weight[:, :, 0, 0]
    expected = point.norm(torch.einsum('oi,nihw->nohw', weight, x))
    torch.testing.assert_close(branch(x), expected + identity.norm(x))


@pytest.mark.parametrize(
    ('size', 'arguments', 'padding'),
    [
        ((1, 3), dict(), (0, 1)),
        ((3, 1), dict(), (1, 0)),
        ((1, 1), dict(size=5, padding=3), (1, 1)),
        ((1, 3), dict(dilation=2, padding=2), (0, 2)),
        ((3, 3), dict(), (1, 1)),
    ],
)
def test_the_centre_stays(conv, size, arguments, padding):
    """A kernel of one tap in the middle gives the same in both."""
    layer = conv(2, 2, bias=False, **arguments)
    made = centred(layer, size)
    assert made.padding == padding
    for module in (layer, made):
        nn.init.zeros_(module.weight)
        rows, columns = module.weight.shape[2:]
        module.weight.data[:, :, rows // 2, columns // 2] = 1
    x = torch.rand(1, 2, 9, 8, dtype=layer.weight.dtype)
    torch.testing.assert_close(made(x), layer(x))


@pytest.mark.parametrize(
    ('kind', 'layer', 'reason'),
    [
        ('asymmetric', nn.Conv2d(4, 4, 1), '1x1 kernel is a row'),
        ('asymmetric', nn.Conv2d(4, 4, (1, 3)), '1x3 kernel is a row'),
        ('asymmetric', nn.Conv2d(4, 4, 4, padding=2), '1x4 kernel has no'),
        ('repvgg', nn.Conv2d(4, 4, 3), r'1x1 .* with padding=\(0, 0\)'),
        ('repvgg', nn.Conv2d(4, 4, 3, padding='same'), "padding='same'"),
        ('repvgg', nn.Conv2d(4, 4, 3, padding=1, groups=2), 'is grouped'),
        ('repvgg', nn.Linear(4, 4), 'Linear takes no bypass'),
        ('repvgg', nn.Conv1d(4, 4, 3), 'Conv1d takes no bypass'),
        (
            dict(type='depthwise', merge=True),
            nn.Conv2d(4, 4, 3, groups=2),
            'merge=True: its convolution is grouped',
        ),
    ],
)
def test_layers_without_branches(kind, layer, reason):
    with pytest.raises(LayerRefusedError, match=reason):
        BRANCHES.build(kind, layer)


def test_what_is_merged_fills_nothing(net, conv, image):
    with pytest.raises(PruningError, match="Take unit='channels', or merge"):
        attach(chain(net, conv), image, unit='filters', bypass='repvgg')


def test_a_plan_builds_them_again(net, conv, image, mask_randomly):
    model = chain(net, conv)
    dense = copy.deepcopy(model)
    pruner = attach(model, image, bypass='repvgg')
    mask_randomly(pruner, 0.5)
    plan = pruner.plan()
    slim = narrow_to(model, plan).eval()
    again = narrow_to(dense, ChannelPlan.from_json(plan.to_json())).eval()
    again.load_state_dict(slim.state_dict())
    torch.testing.assert_close(again(image), slim(image))


@pytest.mark.parametrize('kind', KINDS)
def test_momentum_follows(net, conv, image, mask_randomly, kind):
    """A step of the narrowed network is that of the masked one."""
    torch.manual_seed(0)
    model = chain(net, conv)
    pruner = attach(model, image, bypass=kind)
    mask_randomly(pruner, 0.5)
    plan = pruner.plan()
    twin = copy.deepcopy(model)
    outputs = []
    for network in (model, twin):
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)

        def step(network=network, optimizer=optimizer):
            optimizer.zero_grad()
            network(image).square().mean().backward()
            optimizer.step()

        step()
        if network is twin:
            narrow_to(network, plan, optimizer)
        step()
        outputs.append(network.eval()(image).detach())
    torch.testing.assert_close(*outputs)


def test_a_merged_network_is_built_from_its_plan(
    net, conv, image, mask_randomly
):
    """The norms' shifts are a bias, which dense layers do not have."""
    model = chain(net, conv, bias=False)
    dense = copy.deepcopy(model)
    pruner = attach(model, image, bypass='asymmetric')
    model.train()(image)  # statistics of the norms
    mask_randomly(pruner, 0.5)
    plan = pruner.plan()
    slim = narrow_to(model, plan).eval()
    expected = slim(image)
    merged = merge_bypasses(slim)
    plan = plan.without_branches(merged, {}, biases=['b'])
    assert not plan.branches
    again = narrow_to(dense, ChannelPlan.from_json(plan.to_json())).eval()
    again.load_state_dict(slim.state_dict())
    torch.testing.assert_close(again(image), expected)
    assert plan.below('b').biases == ()
