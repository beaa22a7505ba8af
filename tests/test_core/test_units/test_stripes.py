# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from mmlapp.core import (
    ChannelPlan,
    PruningError,
    PruningWarning,
    attach,
    narrow,
)
from mmlapp.core.plan.kept import Kept
from mmlapp.core.units import Stripes

ALL = ['l1', 'l2', 'fpgm', 'taylor', 'bn_scale', 'cpmc', 'group_norm']


@pytest.fixture
def block(net, conv):
    """A residual block whose stream is as wide as its stem."""

    def make(**parts):
        return net(
            lambda m, x: m.head(
                ((y := m.stem(x)) + m.b(m.a(y).relu())).mean((2, 3))
            ),
            **{
                'stem': conv(3, 8),
                'a': conv(8, 12),
                'b': conv(12, 8),
                'head': nn.Linear(8, 5),
                **parts,
            },
        )

    return make


def test_filters_go_where_the_width_is_free_and_positions_elsewhere(
    block, image, agree
):
    """Masked, narrowed and counted alike; the stream keeps its width."""
    result = agree(block(), image, unit='stripes')
    assert result.groups == {'a': 12, 'stem': 72, 'b': 72}
    slim = result.slim
    assert slim.a.weight.shape == (6, 8, 3, 3)
    assert slim.b.weight.shape == (36, 6, 1, 1)
    assert slim.stem.weight.shape == (36, 3, 1, 1)
    assert slim.stem.bias.shape == (8,)


@pytest.mark.parametrize(
    'parts',
    [
        dict(stem=nn.Conv2d(3, 8, 3, stride=2, padding=1)),
        dict(stem=nn.Conv2d(3, 8, 3, dilation=2, padding=2, bias=False)),
        dict(b=nn.Conv2d(12, 8, (1, 3), padding=(0, 1))),
    ],
    ids=['strided', 'dilated', 'one row'],
)
def test_geometries(block, image, agree, parts):
    model = block(**copy.deepcopy(parts))
    result = agree(model, image, unit='stripes')
    assert {'stem', 'a', 'b'} == set(result.groups)


def test_padding_that_is_no_zero(block, image, agree):
    """It is convolved, too: 10 x 10 products for 8 x 8 outputs."""
    circular = nn.Conv2d(12, 8, 3, padding='same', padding_mode='circular')
    more = 36 * 6 * 2 * (10 * 10 - 8 * 8)  # of half the stripes and inputs
    model = block(b=circular)
    result = agree(model, image, unit='stripes', uncounted=(0, -more))
    assert result.groups == {'stem': 72, 'a': 12, 'b': 72}


def test_free_channels_of_a_depthwise_layer(net, conv, image, agree):
    """It computes channel by channel, so that the width is still free."""
    model = net(
        lambda m, x: m.d(m.c(m.b(m.a(x)).relu())),
        a=conv(3, 8),
        b=conv(8, 8, groups=8),
        c=conv(8, 6, 1),
        d=conv(6, 5),
    )
    result = agree(model, image, unit='stripes')
    assert result.groups == {'a': 8, 'c': 6, 'd': 45}


def test_the_cost_of_a_stripe_is_that_of_its_inputs(block, image):
    """One of 72, read by 12 channels at 2 x 8 x 8 positions."""
    model = block()
    pruner = attach(model, image, unit='stripes')
    mask = torch.ones(12 + 72 + 72, dtype=torch.bool)
    whole = {n: pruner.cost(n)(mask.double()) for n in ('flops', 'parameters')}
    mask[-1] = False
    less = {n: pruner.cost(n)(mask.double()) for n in whole}
    assert whole['flops'] - less['flops'] == 2 * 8 * 8 * 12
    assert whole['parameters'] - less['parameters'] == 12
    # Beside half of its inputs it costs half.
    mask[:6] = False
    without = pruner.cost('flops')(mask.double())
    mask[-1] = True
    assert pruner.cost('flops')(mask.double()) - without == 2 * 8 * 8 * 6


def test_masks_multiply_positions(block, image):
    """By hand; the gate learns from the product of weight and gradient."""
    model = block()
    pruner = attach(model, image, unit='stripes')
    pruner.gate.requires_grad_()
    weight = model.b._parameters['weight']
    with torch.no_grad():
        pruner.gate.copy_(torch.rand(156))
    model(image).square().sum().backward()
    gate = pruner.gate.detach()[-72:].view(8, 1, 3, 3)
    # dL/dw = g dL/d(g w), so that dL/dg = sum over inputs of w dL/dw / g.
    expected = (weight * weight.grad).sum(1, keepdim=True) / gate
    torch.testing.assert_close(
        pruner.gate.grad[-72:].view(8, 1, 3, 3), expected.float()
    )


def test_the_last_stripe_stays(block, image):
    """No convolution is left without any, whose input nobody would read."""
    model = block().eval()
    pruner = attach(model, image, unit='stripes')
    assert pruner.floors == [1, 1, 1]
    lowest = pruner.cost('flops').ratio(
        torch.cat([torch.eye(n)[0] for n in pruner.sizes])
    )
    pruner.begin({'flops': float(lowest) + 1e-6}, 1)
    pruner.step()
    assert pruner.keep_ratios() == {'a': 1 / 12, 'stem': 1 / 72, 'b': 1 / 72}
    expected = model(image)
    slim = narrow(model, pruner.plan())
    assert slim.b.weight.shape == (1, 1, 1, 1)
    torch.testing.assert_close(slim(image), expected)


def test_filters_without_stripes_put_out_their_bias(block, image):
    model = block().eval()
    pruner = attach(model, image, unit='stripes')
    mask = torch.ones(156, dtype=torch.bool)
    mask[-72:-9] = False  # all stripes but those of the last filter
    pruner.set_mask(mask)
    narrow(model, pruner.plan())
    out = model.b(torch.randn(2, 12, 8, 8).double())
    bias = model.b.bias[:7].view(7, 1, 1)
    torch.testing.assert_close(out[:, :7], bias.expand(2, 7, 8, 8))


@pytest.mark.parametrize('score', ALL)
@pytest.mark.parametrize('method', ['lapp', 'ranking'])
def test_scores_and_methods_rank_stripes(block, image, score, method):
    model = block()
    pruner = attach(model, image, unit='stripes', method=method, score=score)
    pruner.begin({'flops': 0.5}, 2)
    for _ in range(2):
        model(image).square().mean().backward()
        pruner.step()
    assert 0.48 < pruner.ratios()['flops'] <= 0.5
    if score == 'l1' and method == 'ranking':
        kept = pruner.by_group(pruner.mask)['b'].view(8, 3, 3)
        norms = model.b.weight.abs().sum(1)
        assert norms[kept].min() > norms[~kept].max()


@pytest.mark.parametrize(
    'arguments',
    [
        dict(method='soft', score='operation_aware'),
        dict(score='functionality'),
    ],
)
def test_what_knows_whole_channels_alone_is_refused(block, image, arguments):
    model = block()
    with pytest.raises(
        PruningError, match=r'whole channels alone, and stem loses stripes.*'
    ):
        attach(model, image, unit='stripes', **arguments)
    assert not hasattr(model, 'pruner')


def test_an_optimizer_follows_two_steps_of_narrowing(block, image):
    """Inputs are sliced first, then stripes taken; momentum goes along."""
    model = block()
    pruner = attach(model, image, unit='stripes', method='uniform')
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    pruner.begin({'flops': 0.5}, 2)

    def train(network, its, steps):
        for _ in range(steps):
            its.zero_grad()
            network(image).square().mean().backward()
            its.step()
            if hasattr(network, 'pruner'):
                network.pruner.step()

    train(model, optimizer, 2)
    wide, its = copy.deepcopy((model, optimizer))
    narrow(model, pruner.plan(), optimizer)
    grad = model.b.weight.grad
    assert grad.shape == model.b.weight.shape
    for network, one in ((model, optimizer), (wide, its)):
        train(network, one, 3)
    torch.testing.assert_close(model(image), wide(image))


def test_a_state_of_another_shape_is_refused_before_anything_changes(
    block, image
):
    model = block()
    pruner = attach(model, image, unit='stripes')
    pruner.set_mask(torch.arange(156) % 2 == 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    weight = model.stem._parameters['weight']
    optimizer.state[weight] = {'factors': torch.zeros(8)}
    with pytest.raises(PruningError, match=r"state 'factors' of SGD"):
        narrow(model, pruner.plan(), optimizer)
    assert model.stem._parameters['weight'] is weight


def test_a_plan_in_a_file_makes_the_dense_network_narrow(
    block, image, tmp_path
):
    model, dense = block().eval(), block().eval()
    pruner = attach(model, image, unit='stripes')
    pruner.set_mask(torch.arange(156) % 3 == 0)
    pruner.plan().save(tmp_path / 'plan.json')
    narrow(model, pruner.plan())
    narrow(dense, ChannelPlan.load(tmp_path / 'plan.json'))
    dense.load_state_dict(model.state_dict())
    assert torch.equal(dense(image), model(image))


def test_a_network_that_lost_stripes_is_not_pruned_again(block, image):
    model = block()
    pruner = attach(model, image, unit='stripes')
    pruner.set_mask(torch.arange(156) % 2 == 0)
    narrow(model, pruner.plan())
    with pytest.raises(PruningError, match='stem of the model has lost str'):
        attach(model, image)


WRONG = {
    'outputs': (nn.Conv2d(2, 2, 3), Kept(2, (0,)), 'keeps outputs of it'),
    'a linear layer': (nn.Linear(2, 2), Kept(4, (0,)), 'Linear has no stri'),
    'one position': (nn.Conv2d(2, 2, 1), Kept(2, (0,)), 'single position'),
    'transposed': (nn.ConvTranspose2d(2, 2, 3), Kept(18, (0,)), 'no stripes'),
    'another size': (nn.Conv2d(2, 2, 3), Kept(9, (0,)), 'has 18 stripes'),
    'none left': (nn.Conv2d(2, 2, 3), Kept(18, ()), 'keeps 0 of 18'),
}


@pytest.mark.parametrize('name', WRONG)
def test_details_of_a_plan_that_do_not_fit(name):
    layer, kept, reason = WRONG[name]
    key = 'outputs' if name == 'outputs' else 'stripes'
    with pytest.raises(PruningError, match=reason):
        Stripes().check_layer(layer, {key: kept}, {})


def test_a_plan_that_removes_filters_and_stripes_of_a_layer(block, image):
    model, dense = block(), block()
    pruner = attach(model, image, unit='stripes')
    pruner.set_mask(torch.arange(156) % 2 == 0)
    plan = pruner.plan()
    both = {**plan.slices, 'b.weight': {0: Kept(8, range(4))}}
    before = copy.deepcopy(dense.state_dict())
    with pytest.raises(PruningError, match='both filters and stripes'):
        narrow(dense, replace(plan, slices=both))
    assert all(
        torch.equal(v, before[k]) for k, v in dense.state_dict().items()
    )


def test_what_has_no_positions_is_named(net, conv, image):
    model = net(
        lambda m, x: m.c(m.b(m.a(x)) + m.a(x)),
        a=conv(3, 8, 1),
        b=conv(8, 8, 1),
        c=conv(8, 5, 1),
    )
    with pytest.raises(
        PruningError,
        match=r"no convolution in scope=\['\*'\] has more than one .*a: its "
        r"kernel has a single position.*Take unit='channels'",
    ):
        attach(model, image, unit='stripes')


def test_it_says_so_if_all_widths_are_free(net, conv, image):
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), b=conv(8, 5, 1))
    with pytest.warns(PruningWarning, match='removes stripes of no layer'):
        pruner = attach(model, image, unit='stripes')
    assert pruner.keep_ratios() == {'a': 1}


def test_scope_and_ignored_layers(block, image):
    pruner = attach(
        block(), image, unit='stripes', scope=['a', 'b'], ignore='a'
    )
    assert [group.name for group in pruner.groups] == ['b']


@pytest.mark.parametrize('groups', [2, 8])
def test_grouped_layers_lose_stripes_where_they_keep_their_width(
    net, conv, image, agree, groups
):
    """As the depthwise ones of ConvNeXt, which read the stream."""
    model = net(
        lambda m, x: m.d((y := m.a(x) + m.c(x)) + m.b(y).relu()),
        a=conv(3, 8),
        b=conv(8, 8, groups=groups),
        c=conv(3, 8, 1),
        d=conv(8, 5, 1),
    )
    result = agree(model, image, unit='stripes')
    assert result.groups['b'] == 72
    assert result.slim.b.weight.shape == (36, 8 // groups, 1, 1)
    assert result.slim.b.groups == groups


def test_layers_that_cannot_lose_stripes_stay_whole(net, conv, image, agree):
    """Transposed, shared and those that are not one plain convolution."""
    shared = conv(8, 8)
    twin = conv(8, 8)
    twin.weight = shared.weight

    class Scaled(nn.Conv2d):
        def forward(self, x):
            return super().forward(2 * x)

    model = net(
        lambda m, x: m.d(
            (y := m.a(x)) + m.b(y) + m.shared(y) + m.twin(y) + m.scaled(y)
        ),
        a=conv(3, 8),
        b=nn.ConvTranspose2d(8, 8, 3, padding=1),
        shared=shared,
        twin=twin,
        scaled=Scaled(8, 8, 3, padding=1),
        d=conv(8, 5, 1),
    )
    assert agree(model, image, unit='stripes').groups == {'a': 72}


def test_a_bypass_is_refused(block, image):
    with pytest.raises(PruningError, match=r"bypass=.*'depthwise'.*no branch"):
        attach(block(), image, unit='stripes', bypass='depthwise')


def test_copies_are_refused(net, conv, image):
    """A mean teacher would keep the kernels that its student loses."""
    student = nn.Sequential(conv(3, 8), conv(8, 4))
    model = net(lambda m, x: m.student(x), student=student, teacher=student)
    model.teacher = copy.deepcopy(model.student).requires_grad_(False)
    with pytest.raises(PruningError, match='teacher, which copies student'):
        attach(model, image, unit='stripes')
