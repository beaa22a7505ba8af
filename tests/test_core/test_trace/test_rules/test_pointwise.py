# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Elementwise operators: what is tied, and what stays zero."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core.trace.rules import pointwise

ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU6(),
    nn.LeakyReLU(0.1),
    nn.PReLU(),
    nn.PReLU(8),
    nn.ELU(),
    nn.CELU(),
    nn.SELU(),
    nn.GELU(),
    nn.SiLU(),
    nn.Mish(),
    nn.Tanh(),
    nn.Hardswish(),
    nn.Softsign(),
    nn.Identity(),
]
# These are not zero where a channel was removed.
OPEN = [
    nn.Sigmoid(),
    nn.Hardsigmoid(),
    nn.Softplus(),
    nn.LogSigmoid(),
    nn.Hardtanh(0.5, 1.0),
]


def masked_dimensions(module):
    """Which dimensions of a weight are read through a mask."""
    masks = module.__dict__.get('_masks', {}).get('weight', [])
    return {mask.dim for mask in masks}


@pytest.mark.parametrize('act', ACTIVATIONS, ids=repr)
def test_activations_that_keep_zero(net, conv, image, agree, act):
    model = net(
        lambda m, x: m.b(m.act(m.a(x))), a=conv(3, 8), act=act, b=conv(8, 5)
    )
    result = agree(model, image)
    assert result.groups == {'a': 8}
    assert masked_dimensions(result.model.b) == set()


@pytest.mark.parametrize('act', OPEN, ids=repr)
def test_a_reader_of_what_is_not_zero_is_masked(net, conv, image, agree, act):
    model = net(
        lambda m, x: m.b(m.act(m.a(x))), a=conv(3, 8), act=act, b=conv(8, 5)
    )
    result = agree(model, image)
    assert result.groups == {'a': 8}
    assert masked_dimensions(result.model.b) == {1}


SAFE = {
    'scale by two': lambda x: x * 2,
    'divide by two': lambda x: x / 2,
    'square': lambda x: x**2,
    'root': lambda x: (x.abs() + 1e-3).sqrt() - 1e-3**0.5,
    'power': lambda x: x.abs() ** 1.5,
    'abs': torch.abs,
    'negate': torch.neg,
    'clamp': lambda x: x.clamp(-0.5, 0.5),
    'minimum': lambda x: torch.minimum(x, x.relu()),
    'in place': lambda x: x.mul_(2).relu_(),
    'sign': lambda x: x * x.sign(),
    'positive': lambda x: x * (x > 0),
    'where': lambda x: torch.where(x > 0, x, 0.1 * x),
    'lerp': lambda x: torch.lerp(x, x.relu(), 0.3),
    'over one': lambda x: x / (1 + x.abs()),
}


@pytest.mark.parametrize('name', SAFE)
def test_arithmetic(net, conv, image, agree, name):
    function = SAFE[name]
    model = net(lambda m, x: m.b(function(m.a(x))), a=conv(3, 8), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


SHIFTED = {
    'add one': lambda x: x + 1,
    'one minus': lambda x: 1 - x,
    'exponential': torch.exp,
    'cosine': torch.cos,
    'clamp from below': lambda x: x.clamp(min=0.2),
    'fill': lambda x: x.masked_fill(x <= 0, 0.3),
    'compare': lambda x: (x < 0.1).double(),
    'inverse root': lambda x: (x.square() + 1e-3).rsqrt(),
}


@pytest.mark.parametrize('name', SHIFTED)
def test_arithmetic_that_moves_zero(net, conv, image, agree, name):
    function = SHIFTED[name]
    model = net(lambda m, x: m.b(function(m.a(x))), a=conv(3, 8), b=conv(8, 5))
    result = agree(model, image)
    assert result.groups == {'a': 8}
    assert masked_dimensions(result.model.b) == {1}


INFINITE = {
    'log': lambda x: x.relu().log(),
    'reciprocal': lambda x: 1 / x,
    'rsqrt': lambda x: x.square().rsqrt(),
    'zero by zero': lambda x: x / x.abs(),
    'power': lambda x: x**-2,
}


@pytest.mark.parametrize('name', INFINITE)
def test_what_is_infinite_at_zero_is_frozen(net, conv, image, frozen, name):
    function = INFINITE[name]
    model = net(lambda m, x: m.b(function(m.a(x))), a=conv(3, 8), b=conv(8, 5))
    assert frozen(model, image)['a'].endswith('of zero is not finite')


STEEP = {
    'root': lambda x: x.abs().sqrt(),
    'root in place': lambda x: x.square().sqrt_(),
    'signed root': lambda x: x.sign() * x.abs().sqrt(),
    'power': lambda x: x.abs() ** 0.5,
    'learned power': lambda x: x.abs().pow(torch.tensor([0.4])),
    'standard deviation': lambda x: (
        x / (x.var((2, 3), keepdim=True).sqrt() + 1)
    ),
    'norm': lambda x: x / (x.square().sum((2, 3), True).sqrt() + 1),
    'generalised mean': lambda x: (
        x + x.clamp(min=0).pow(3).mean((2, 3), True).pow(1 / 3)
    ),
    'hypotenuse': lambda x: torch.hypot(x, x),
    'entropy': lambda x: torch.special.entr(x.abs()),
    'times logarithm': lambda x: torch.xlogy(x.abs(), x.abs()),
    'special logarithm': lambda x: torch.special.xlogy(x.abs(), x.abs()),
    'logarithm of one more': lambda x: torch.special.xlog1py(x, x - x.cos()),
    # Constants, and not zero, where a channel is removed.
    'cosine': lambda x: (1 - x.cos()).sqrt(),
    'scaled': lambda x: (2 * x.cosh() - 2).sqrt(),
    'exponential': lambda x: (x.abs().exp() - 1) ** 0.5,
    'arcus cosine': lambda x: torch.acos(1 - x**2 / (1 + x**2)),
    'arcus sine': lambda x: torch.asin(x.cos()),
    'area cosine': lambda x: torch.acosh(x.cosh()),
    'product': lambda x: torch.acos(x.cos() * (x.square() + 1).rsqrt()),
    'changed in place': lambda x: (1 - (x + 0).cos_()).sqrt_(),
    'moved': lambda x: torch.acosh(x.cosh().mT.flip(2).mT),
    'joined': lambda x: torch.acos(torch.cat([x.cos(), x.cos()], 2)),
    'stacked': lambda x: torch.acos(torch.stack([x.cos(), x.cos()])).sum(0),
    'padded': lambda x: torch.acos(functional.pad(x.cos(), (1, 1), value=0.5)),
    'pooled': lambda x: torch.acosh(functional.max_pool2d(x.cosh(), 3, 1, 1)),
    'mean': lambda x: x + torch.acosh(x.cosh().mean((2, 3), keepdim=True)),
    'sum': lambda x: (
        x + torch.acos(x.cos().sum((2, 3), True) / x.shape[-1] ** 2)
    ),
    'deviation of a constant': lambda x: (
        x + (x.cos().var((2, 3), keepdim=True)).sqrt()
    ),
    'instance norm': lambda x: functional.instance_norm(x + 1).abs().sqrt(),
    'batch norm': lambda x: (
        functional.batch_norm(x, None, None, training=True).abs().sqrt()
    ),
}


@pytest.mark.parametrize('name', STEEP)
def test_what_masks_would_train_into_nan_is_frozen(
    net, conv, image, frozen, name
):
    """Where a removed channel is zero, the gradient is infinity times zero."""
    function = STEEP[name]
    x = torch.zeros(2, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    function(x).sum().backward()
    assert not x.grad.isfinite().all()
    model = net(lambda m, x: m.b(function(m.a(x))), a=conv(3, 8), b=conv(8, 5))
    reason = frozen(model, image)['a']
    assert reason.startswith('the gradient of aten::')
    assert reason.endswith('is not finite')


@pytest.mark.parametrize('name', ['arcus cosine', 'area cosine', 'cosine'])
def test_where_a_slope_is_infinite_is_told(net, conv, image, frozen, name):
    function = STEEP[name]
    model = net(lambda m, x: m.b(function(m.a(x))), a=conv(3, 8), b=conv(8, 5))
    where = 'zero' if name == 'cosine' else '1'
    assert frozen(model, image)['a'].endswith(f' at {where} is not finite')


GENTLE = {
    'complex': lambda x: (
        torch.view_as_complex(torch.stack([x.cosh(), x.cosh()], -1)).abs() - 1
    ).sqrt(),
    'root': lambda x: (2 - x.cos()).sqrt(),
    'times logarithm': lambda x: torch.xlogy(x, x.square() + 1),
    'logarithm of one more': lambda x: torch.special.xlog1py(x, x.abs()),
    'arcus cosine': lambda x: torch.acos(x.cos() / 2),
    'area cosine': lambda x: torch.acosh(x.cosh() + 1),
    'chosen': lambda x: torch.where(x != 0, 1 + x.square(), 1).log(),
    'random': lambda x: functional.dropout(x.cos(), 0.5, False) + x,
    'by an unknown one': lambda x: x.cos() * x.mean((2, 3), True) + 1,
    'transform': lambda x: (
        (torch.view_as_real(torch.fft.rfft(x.cos())) - 1)
        .square()
        .sqrt()
        .sum(-1)
    ),
    'learned power': lambda x: x.exp() ** torch.tensor([0.5]),
}


@pytest.mark.parametrize('name', GENTLE)
def test_constants_at_finite_slopes_are_free(net, conv, image, agree, name):
    function = GENTLE[name]
    model = net(lambda m, x: m.b(function(m.a(x))), a=conv(3, 8), b=conv(8, 5))
    result = agree(model, image)
    assert result.groups == {'a': 8}
    result.model(image).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in result.model.parameters())


def test_what_is_zero_by_chance_is_read_through_a_mask(
    net, conv, image, agree
):
    model = net(lambda m, x: m.b(m.a(x).exp() - 1), a=conv(3, 8), b=conv(8, 5))
    assert masked_dimensions(agree(model, image).model.b) == {1}


def slopes(operator, count, value):
    """Gradients of an operator at a value; none where it is infinite."""
    operands = [
        torch.tensor([value], dtype=torch.float64, requires_grad=True)
        for _ in range(count)
    ]
    try:
        out = operator(*operands)
        out = out if isinstance(out, torch.Tensor) else out[0]
        if out.isfinite().all():
            out.abs().sum().backward()
    except (NotImplementedError, RuntimeError, TypeError):
        return []
    return [x.grad for x in operands if x.grad is not None]


def pointwise_operators():
    names = {
        name.removeprefix('aten::').partition('.')[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith('aten::')
    }
    for name in sorted(names):
        packet = getattr(torch.ops.aten, name)
        for overload in (getattr(packet, o) for o in packet.overloads()):
            arguments = overload._schema.arguments
            needed = [a for a in arguments if not a.has_default_value()]
            if (
                torch.Tag.pointwise in overload.tags
                and all(str(a.type) == 'Tensor' for a in needed)
                and not any(a.alias_info or a.kwarg_only for a in needed)
                and 'backward' not in name
            ):
                yield name, overload, len(needed)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('value', [0.0, 1.0])
def test_all_operators_of_infinite_slope_are_known(value):
    """Of those that PyTorch has, with all operands alike."""
    found = {
        f'aten::{name}'
        for name, operator, count in pointwise_operators()
        if not all(g.isfinite().all() for g in slopes(operator, count, value))
    }
    assert found
    assert found <= pointwise._STEEP.keys()


class Deviation(nn.Module):
    """Divides by the standard deviation of each channel, or that of all."""

    def __init__(self, dims):
        super().__init__()
        self.dims = dims

    def forward(self, x):
        return x / (x.square().mean(self.dims, keepdim=True).sqrt() + 1e-6)


@pytest.mark.parametrize('dims', [(2, 3), (1, 2, 3)])
def test_roots_of_a_module_train_on_living_channels(
    net, conv, image, agree, dims
):
    model = net(
        lambda m, x: m.b(m.part(m.a(x))),
        a=conv(3, 8),
        part=Deviation(dims),
        b=conv(8, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8}
    result.model(image).square().sum().backward()
    for parameter in result.model.parameters():
        assert parameter.grad.isfinite().all()


def test_sum_ties_its_operands(net, conv, image, agree):
    model = net(
        lambda m, x: m.c(m.a(x) + m.b(x)),
        a=conv(3, 8),
        b=conv(3, 8),
        c=conv(8, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8}
    a, b = (result.plan.slices[f'{k}.weight'][0].index for k in 'ab')
    assert a == b


def test_sum_in_place_ties_its_operands(net, conv, image, agree):
    def forward(m, x):
        y = m.a(x)
        y += m.b(x)
        return m.c(y)

    model = net(forward, a=conv(3, 8), b=conv(3, 8), c=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


def test_what_is_added_to_the_image_stays(net, conv, image, frozen):
    model = net(lambda m, x: m.b(x + m.a(x)), a=conv(3, 3), b=conv(3, 5))
    reason = frozen(model, image)['a']
    assert (
        reason == 'meets a value that is no channel, such as the input image'
    )


def test_product_with_an_open_gate_keeps_zero(net, conv, image, agree):
    """Squeeze and excitation: neither the gate nor the reader is masked."""

    def forward(m, x):
        x = m.a(x)
        gate = m.up(m.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return m.b(x * gate)

    model = net(
        forward,
        a=conv(3, 8),
        down=conv(8, 4, 1),
        up=conv(4, 8, 1),
        b=conv(8, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8, 'down': 4}
    assert masked_dimensions(result.model.b) == set()


def test_a_gate_alone_must_be_masked_where_it_is_read(net, conv, image, agree):
    def forward(m, x):
        gate = m.up(m.a(x).mean((2, 3), keepdim=True)).sigmoid()
        return m.b(gate)

    model = net(forward, a=conv(3, 8), up=conv(8, 6, 1), b=conv(6, 5, 1))
    result = agree(model, image)
    assert result.groups == {'a': 8, 'up': 6}
    assert masked_dimensions(result.model.b) == {1}


def test_a_bare_parameter_is_masked(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(m.a(x) * m.scale + m.shift),
        a=conv(3, 8),
        scale=nn.Parameter(torch.rand(8, 1, 1) + 0.5),
        shift=nn.Parameter(torch.rand(1, 8, 1, 1)),
        b=conv(8, 5),
    )
    result = agree(model, image)
    assert result.slim.scale.shape == (4, 1, 1)
    assert result.slim.shift.shape == (1, 4, 1, 1)
    assert masked_dimensions(result.model.b) == set()


def test_a_parameter_seen_through_a_view(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(m.a(x) + m.shift.view(1, -1, 1, 1)),
        a=conv(3, 8),
        shift=nn.Parameter(torch.rand(8)),
        b=conv(8, 5),
    )
    assert agree(model, image).slim.shift.shape == (4,)


def test_a_bare_buffer_cannot_be_masked(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(m.a(x) + m.shift),
        a=conv(3, 8),
        shift=torch.rand(8, 1, 1),
        b=conv(8, 5),
    )
    result = agree(model, image)
    assert result.slim.shift.shape == (4, 1, 1)
    assert masked_dimensions(result.model.b) == {1}


def test_a_constant_along_channels_freezes(net, conv, image, frozen):
    model = net(
        lambda m, x: m.b(m.a(x) + torch.rand(8, 1, 1, dtype=x.dtype)),
        a=conv(3, 8),
        b=conv(8, 5),
    )
    assert frozen(model, image)['a'].startswith('meets a value')


def test_a_constant_along_space_does_not(net, conv, image, agree):
    weight = torch.rand(8, 8).double()
    model = net(lambda m, x: m.b(m.a(x) * weight), a=conv(3, 8), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


class Changed:
    """Ways to change a tensor behind the back of another."""

    @staticmethod
    def base(m, x):
        x = m.a(x)
        x.view(2, -1, 64).sigmoid_()
        return m.b(x)

    @staticmethod
    def view(m, x):
        x = m.a(x)
        y = x.flatten(2)
        x.exp_()
        return m.b(y.view(2, -1, 8, 8))

    @staticmethod
    def part(m, x):
        other = m.c(x)
        x = m.a(x)
        x[:, : x.shape[1] // 2] += other.sigmoid()
        return m.b(x)


@pytest.mark.parametrize(
    ('how', 'free'), [('base', 8), ('view', 8), ('part', 4)]
)
def test_what_changes_through_a_view_is_seen(
    net, conv, image, agree, how, free
):
    others = {'c': conv(3, 4)} if how == 'part' else {}
    model = net(getattr(Changed, how), a=conv(3, 8), b=conv(8, 5), **others)
    assert list(agree(model, image).groups.values()) == [free]


def test_a_view_whose_base_is_not_read_again_is_free(net, image, agree):
    """A linear layer over positions returns a view; ReLU works in place."""
    model = net(
        lambda m, x: m.b(m.act(m.a(x))),
        a=nn.Linear(8, 6),
        act=nn.ReLU(inplace=True),
        b=nn.Linear(6, 5),
    )
    assert agree(model, image).groups == {'a': 6}


def test_both_halves_of_a_gated_unit_lose_the_same(net, conv, image, agree):
    """A gated linear unit: 16 channels go in eight pairs, of 8 come out."""
    model = net(
        lambda m, x: m.b(functional.glu(m.a(x), 1)),
        a=conv(3, 16),
        b=conv(8, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8}
    assert result.slim.a.out_channels == 8
    assert masked_dimensions(result.model.b) == set()
    kept = result.plan.slices['a.weight'][0].mask()
    assert torch.equal(kept[:8], kept[8:])


def test_a_gate_over_space_ties_no_channels(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(functional.glu(m.a(x), -1)),
        a=conv(3, 8),
        b=conv(8, 5),
    )
    assert agree(model, image).groups == {'a': 8}


def test_one_value_for_all_channels_is_as_good_for_fewer(
    net, conv, image, agree
):
    """Expanded, not repeated: the same number in one place."""

    def forward(m, x):
        y = m.a(x)
        size = y.abs().sum(1, keepdim=True) + 1
        return m.b(y / size.expand_as(y) + size.expand(-1, y.shape[1], 8, 8))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


def test_a_constant_beside_channels_is_no_axis(net, conv, image, agree):
    """Two heads of which each has its own factor are flattened with them."""
    factor = torch.tensor([0.5, 2.0])[:, None, None, None]

    def forward(m, x):
        heads, y = m.h(x).view(2, 2, 1, 8, 8) * factor, m.a(x)
        z = heads * y[:, None]
        return m.b(z.view(2, 2 * y.shape[1], 8, 8))

    parts = {'a': conv(3, 6), 'h': conv(3, 2), 'b': conv(12, 5)}
    model = net(forward, **parts)
    assert agree(model, image).groups == {'a': 6}
