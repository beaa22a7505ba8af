# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError, attach, fuse, narrow
from mmlapp.core.handover.fuse import fold


def test_a_fold_is_the_convolution_of_the_closed_form(net, conv, randomise):
    model = net(
        lambda m, x: m.norm(m.conv(x)), conv=conv(3, 4), norm=nn.BatchNorm2d(4)
    )
    randomise(model)
    norm = model.norm
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    fused = fuse(model, image)
    torch.testing.assert_close(
        fused.model.conv.weight, scale[:, None, None, None] * model.conv.weight
    )
    torch.testing.assert_close(
        fused.model.conv.bias,
        scale * (model.conv.bias - norm.running_mean) + norm.bias,
    )
    assert fused.folds == (('conv', 'norm'),)
    assert type(model.norm) is nn.BatchNorm2d


class ActiveNorm(nn.BatchNorm2d):
    """As timm's: a norm and an activation in one."""

    def forward(self, x):
        return super().forward(x).relu()


def read_twice(m, x):
    y = m.conv(x)
    return m.norm(y) + y


def shared_convolution(m, x):
    """As the heads of RTMDet: one convolution, a norm for each level."""
    return m.norm(m.conv(x)) + m.other(m.conv(x[..., ::2])).mean()


def shared_norm(m, x):
    return m.norm(m.conv(x)) + m.norm(m.second(x))


def in_place(m, x):
    y = m.conv(x)
    z = m.norm(y)
    y.relu_()
    return z


def norm_of_something_else(m, x):
    return m.norm(m.conv(x).relu())


def functional_weight(m, x):
    return m.norm(nn.functional.conv2d(x, m.conv.weight * 2, padding=1))


@pytest.mark.parametrize(
    'function',
    [
        read_twice,
        shared_convolution,
        shared_norm,
        in_place,
        norm_of_something_else,
        functional_weight,
    ],
)
def test_what_cannot_be_folded_stays(net, conv, randomise, image, function):
    model = net(
        function,
        conv=conv(3, 4),
        second=conv(3, 4),
        norm=nn.BatchNorm2d(4),
        other=nn.BatchNorm2d(4),
    )
    fused = fuse(randomise(model), image)
    assert fused.folds == ()
    torch.testing.assert_close(fused.model(image), model.eval()(image))


def test_a_convolution_whose_outputs_are_returned_keeps_them(
    net, conv, randomise, image
):
    def both(m, x):
        y = m.conv(x)
        return y, m.norm(y)

    model = net(both, conv=conv(3, 4), norm=nn.BatchNorm2d(4))
    assert fuse(randomise(model), image).folds == ()


def test_norms_that_do_more_stay(net, conv, image):
    model = net(
        lambda m, x: m.norm(m.conv(x)), conv=conv(3, 4), norm=ActiveNorm(4)
    )
    assert fuse(model, image).folds == ()


def test_a_head_that_several_levels_share_is_folded(
    net, conv, image, randomise
):
    model = net(
        lambda m, x: m.norm(m.conv(x)).mean() + m.norm(m.conv(x[..., ::2])),
        conv=conv(3, 4),
        norm=nn.BatchNorm2d(4),
    )
    fused = fuse(randomise(model), image)
    assert fused.folds == (('conv', 'norm'),)
    torch.testing.assert_close(fused.model(image), model.eval()(image))


@pytest.mark.parametrize('groups', [1, 2])
def test_transposed_convolutions(net, image, randomise, groups):
    model = net(
        lambda m, x: m.norm(m.up(m.conv(x))),
        conv=nn.Conv2d(3, 4, 1),
        up=nn.ConvTranspose2d(4, 6, 2, 2, groups=groups),
        norm=nn.BatchNorm2d(6),
    )
    fused = fuse(randomise(model), image)
    # torch cannot fold grouped ones.
    assert len(fused.folds) == (groups == 1)
    torch.testing.assert_close(fused.model(image), model.eval()(image))


@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('bias', [True, False])
def test_a_norm_behind_stripes_is_folded_into_their_rows(
    net, conv, image, randomise, bias, affine
):
    """A filter without stripes puts out the shift of its norm."""
    model = net(
        lambda m, x: m.head((y := m.stem(x)) + m.norm(m.conv(y)).relu()),
        stem=conv(3, 4, 1),
        conv=conv(4, 4, bias=bias),
        norm=nn.BatchNorm2d(4, affine=affine),
        head=conv(4, 2),
    )
    pruner = attach(randomise(model), image, unit='stripes', ignore='head')
    mask = torch.arange(36) % 3 == 0
    mask[9:18] = False
    pruner.set_mask(mask)
    plan = pruner.plan()
    slim = narrow(model, plan).eval()
    before = copy.deepcopy(slim.state_dict())
    fused = fuse(slim, image, [plan])
    assert fused.folds == (('conv', 'norm'),)
    torch.testing.assert_close(fused.model(image), slim(image))
    assert isinstance(fused.model.norm, nn.Identity)
    for name, value in slim.state_dict().items():
        assert torch.equal(value, before[name])


def test_stripes_that_somebody_else_reads_keep_their_norm(
    net, conv, image, randomise
):
    model = net(
        lambda m, x: m.norm(y := m.conv(m.stem(x))) + y,
        stem=conv(3, 4, 1),
        conv=conv(4, 4),
        norm=nn.BatchNorm2d(4),
    )
    pruner = attach(randomise(model), image, unit='stripes', ignore='stem')
    pruner.set_mask(torch.arange(36) % 3 == 0)
    slim = narrow(model, pruner.plan()).eval()
    assert fuse(slim, image).folds == ()


class Rising(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_a_network_that_changes_is_refused(image):
    with pytest.raises(PruningError, match='differs from the network'):
        fuse(Rising(), image)


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_rounding_of_half_precision_is_told(
    net, conv, image, randomise, dtype
):
    model = net(
        lambda m, x: m.norm(m.conv(x)),
        conv=conv(3, 16),
        norm=nn.BatchNorm2d(16),
    )
    with pytest.raises(PruningError, match=f'in {dtype} are rounded .*float3'):
        fuse(randomise(model).to(dtype).eval(), image.to(dtype))


def test_a_network_that_changes_its_input(net, conv, image):
    model = net(
        lambda m, x: m.norm(m.conv(x.sub_(1).mul_(2))),
        conv=conv(3, 4),
        norm=nn.BatchNorm2d(4),
    )
    before = image.clone()
    assert fuse(model.eval(), image).folds == (('conv', 'norm'),)
    assert torch.equal(image, before)


def test_masks_come_off_first(net, conv, image):
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), b=conv(8, 4))
    attach(model, image)
    with pytest.raises(PruningError, match='the network has masks: narrow'):
        fuse(model, image)


def test_what_is_no_example(net, conv, image):
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), b=conv(8, 4))
    for example in (None, (image,)):
        with pytest.raises(PruningError, match=r'example=.*expected an input'):
            fuse(model, example)
    with pytest.raises(PruningError, match=r"plans='slim\.json': expected a"):
        fuse(model, image, 'slim.json')


def test_folds_of_another_network(net, conv):
    model = net(lambda m, x: m.conv(x), conv=conv(3, 4), act=nn.ReLU())
    with pytest.raises(PruningError, match='they are a ReLU and a Conv2d'):
        fold(model, [('conv', 'act')])
    with pytest.raises(PruningError, match='it has no norm'):
        fold(model, [('conv', 'norm')])


def test_the_plan_of_a_fused_network_has_no_costs(net, conv, image):
    """They are those of the network with its norms."""
    model = net(
        lambda m, x: m.second(m.norm(m.conv(x))),
        conv=conv(3, 4),
        norm=nn.BatchNorm2d(4),
        second=conv(4, 4),
    )
    pruner = attach(model, image)
    pruner.begin({'flops': 0.6}, steps=1)
    pruner.step()
    plan = pruner.plan()
    narrow(model, plan)
    (found,) = fuse(model, image, [plan]).plans
    assert plan.costs
    assert found.costs == {}
    assert found.same_shape(plan)
