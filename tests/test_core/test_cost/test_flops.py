# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlapp.core import Bypass, attach
from mmlapp.core.methods.lapp.surrogates import SURROGATES


@pytest.fixture
def lapp(net, conv, image):
    """Residual block, depthwise layer, concatenation and a head."""

    def forward(m, x):
        x = m.a(x)
        x = x + m.c(m.b(x).relu())
        x = m.d(x)
        return m.fc(torch.cat([x, m.e(x)], dim=1).flatten(1))

    model = net(
        forward,
        a=conv(3, 8),
        b=conv(8, 6),
        c=conv(6, 8),
        d=conv(8, 8, groups=8),
        e=conv(8, 4),
        fc=nn.Linear(12 * 64, 5),
    )
    return attach(model, image)


def random_mask(lapp):
    return torch.rand(lapp.total, dtype=torch.float64)


def test_multiply_adds_in_closed_form(lapp):
    """Batch 2, 8 x 8 positions; the groups a, b, c, e with their readers."""
    sizes = [info.size for info in lapp.groups]
    assert [(i.name, i.size) for i in lapp.groups] == [
        ('a', 8),
        ('b', 6),
        ('e', 4),
    ]
    for _ in range(5):
        mask = (random_mask(lapp) > 0.5).double()
        a, b, e = (part.sum().item() for part in mask.split(sizes))
        positions = 2 * 8 * 8
        expected = positions * 9 * (3 * a + 2 * a * b + a + a * e)
        expected += positions * 5 * (a + e)
        assert float(lapp.flops(mask)) == pytest.approx(expected)


def test_layers_as_torch_counts_them(net, conv, image):
    model = net(
        lambda m, x: m.body.b(m.body.a(x).mean((2, 3))),
        body=nn.ModuleDict({'a': conv(3, 8), 'b': nn.Linear(8, 5)}),
    )
    lapp = attach(model, image)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    counts = {
        name.removeprefix('Net.'): sum(ops.values()) / 2
        for name, ops in counter.get_flop_counts().items()
    }
    found = lapp.flops.by_layer(torch.ones(lapp.total))
    assert found == {k: counts[k] for k in ('body.a', 'body.b')}


def test_layers_sum_up(lapp):
    mask = random_mask(lapp)
    total = sum(lapp.flops.by_layer(mask).values())
    assert total == pytest.approx(float(lapp.flops(mask)))


def test_gradient_by_the_mask_is_exact(lapp):
    mask = random_mask(lapp).requires_grad_()
    torch.autograd.gradcheck(lambda m: lapp.flops(m) / 1e5, mask)


@pytest.mark.parametrize('placement', ['fill', 'narrow'])
@pytest.mark.parametrize('kind', ['depthwise', 'pointwise', 'grouped'])
def test_gradient_by_the_mask_is_exact_with_bypasses(
    net, conv, image, kind, placement
):
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 8),
        b=conv(8, 16),
        c=conv(16, 5),
    )
    lapp = attach(model, image, bypass=Bypass(kind, placement))
    assert any(
        n.endswith('.bypass')
        for n in lapp.flops.by_layer(torch.ones(lapp.total))
    )
    mask = random_mask(lapp).requires_grad_()
    torch.autograd.gradcheck(lambda m: lapp.flops(m) / 1e5, mask)


@pytest.mark.parametrize('name', list(SURROGATES))
def test_gradient_by_the_thresholds_of_the_relaxed_flops(lapp, name):
    """The FLOPs of relaxed masks against finite differences."""
    surrogate = SURROGATES[name](0.7)
    scores = torch.rand(lapp.total, dtype=torch.float64)
    threshold = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)
    owner = lapp.group[:-1]

    def relaxed_flops(t):
        mask = surrogate.relaxed(scores - t[owner])
        return (lapp.flops(mask) / lapp.dense_flops).log()

    torch.autograd.gradcheck(relaxed_flops, threshold.requires_grad_())


def test_a_mask_beyond_zero_and_one_extrapolates(lapp):
    """Multilinear: the mean of two masks of one channel is in the middle."""
    mask = random_mask(lapp)
    low, high = mask.clone(), mask.clone()
    channel = 8  # of b, which meets itself in no layer
    low[channel], high[channel] = 0, 1
    middle = (low + high) / 2
    expected = (lapp.flops(low) + lapp.flops(high)) / 2
    torch.testing.assert_close(lapp.flops(middle), expected)


def test_integer_and_boolean_masks_count_too(lapp):
    mask = random_mask(lapp) > 0.5
    assert float(lapp.flops(mask)) == float(lapp.flops(mask.double()))


def test_the_table_is_not_part_of_the_checkpoint(lapp):
    assert not [k for k in lapp.state_dict() if k.startswith('flops')]
