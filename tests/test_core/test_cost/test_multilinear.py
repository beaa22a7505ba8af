# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlapp.core import attach
from mmlapp.core.methods.lapp.surrogates import SURROGATES


@pytest.fixture
def pruner(net, conv, image):
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


def random_mask(pruner):
    return torch.rand(len(pruner.gate), dtype=torch.float64)


def test_multiply_adds_in_closed_form(pruner):
    """Batch 2, 8 x 8 positions; the groups a, b, c, e with their readers."""
    sizes = [info.size for info in pruner.groups]
    assert [(i.name, i.size) for i in pruner.groups] == [
        ('a', 8),
        ('b', 6),
        ('e', 4),
    ]
    for _ in range(5):
        mask = (random_mask(pruner) > 0.5).double()
        a, b, e = (part.sum().item() for part in mask.split(sizes))
        positions = 2 * 8 * 8
        expected = positions * 9 * (3 * a + 2 * a * b + a + a * e)
        expected += positions * 5 * (a + e)
        assert float(pruner.cost('flops')(mask)) == pytest.approx(expected)


def test_layers_as_torch_counts_them(net, conv, image):
    model = net(
        lambda m, x: m.body.b(m.body.a(x).mean((2, 3))),
        body=nn.ModuleDict({'a': conv(3, 8), 'b': nn.Linear(8, 5)}),
    )
    pruner = attach(model, image)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    counts = {
        name.removeprefix('Net.'): sum(ops.values()) / 2
        for name, ops in counter.get_flop_counts().items()
    }
    found = pruner.cost('flops').by_layer(torch.ones(len(pruner.gate)))
    assert found == {k: counts[k] for k in ('body.a', 'body.b')}


def test_layers_sum_up(pruner):
    mask = random_mask(pruner)
    total = sum(pruner.cost('flops').by_layer(mask).values())
    assert total == pytest.approx(float(pruner.cost('flops')(mask)))


def test_gradient_by_the_mask_is_exact(pruner):
    mask = random_mask(pruner).requires_grad_()
    torch.autograd.gradcheck(lambda m: pruner.cost('flops')(m) / 1e5, mask)


@pytest.mark.parametrize('unit', ['filters', 'channels'])
@pytest.mark.parametrize('kind', ['depthwise', 'pointwise', 'grouped'])
def test_gradient_by_the_mask_is_exact_with_bypasses(
    net, conv, image, kind, unit
):
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 8),
        b=conv(8, 16),
        c=conv(16, 5),
    )
    pruner = attach(model, image, bypass=kind, unit=unit)
    assert any(
        n.endswith('.bypass')
        for n in pruner.cost('flops').by_layer(torch.ones(len(pruner.gate)))
    )
    mask = random_mask(pruner).requires_grad_()
    torch.autograd.gradcheck(lambda m: pruner.cost('flops')(m) / 1e5, mask)


@pytest.mark.parametrize('name', list(SURROGATES))
def test_gradient_by_the_thresholds_of_the_relaxed_flops(pruner, name):
    """The FLOPs of relaxed masks against finite differences."""
    surrogate = SURROGATES[name](0.7)
    scores = torch.rand(len(pruner.gate), dtype=torch.float64)
    threshold = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)
    owner = pruner.group

    def relaxed_flops(t):
        mask = surrogate.relaxed(scores - t[owner])
        return (pruner.cost('flops')(mask) / pruner.cost('flops').dense).log()

    torch.autograd.gradcheck(relaxed_flops, threshold.requires_grad_())


def test_a_mask_beyond_zero_and_one_extrapolates(pruner):
    """Multilinear: the mean of two masks of one channel is in the middle."""
    mask = random_mask(pruner)
    low, high = mask.clone(), mask.clone()
    channel = 8  # of b, which meets itself in no layer
    low[channel], high[channel] = 0, 1
    middle = (low + high) / 2
    expected = (pruner.cost('flops')(low) + pruner.cost('flops')(high)) / 2
    torch.testing.assert_close(pruner.cost('flops')(middle), expected)


def test_integer_and_boolean_masks_count_too(pruner):
    mask = random_mask(pruner) > 0.5
    assert float(pruner.cost('flops')(mask)) == float(
        pruner.cost('flops')(mask.double())
    )


def test_the_table_is_not_part_of_the_checkpoint(pruner):
    assert not [k for k in pruner.state_dict() if 'counted' in k]


def test_a_channel_paired_with_itself_goes_once(net, conv, image):
    """Beside a layer whose ends are one group, pairs are (0, 0), (1, 1)."""
    model = net(
        lambda m, x: m.c((y := m.a(x)) + m.b(y)),
        a=conv(3, 6),
        b=conv(6, 6),
        c=conv(6, 5),
    )
    cost = attach(model, image, bypass='depthwise').cost('flops')
    gate = torch.ones(6, requires_grad=True)
    _, pairs = cost.by_term(gate)
    pairs.sum().backward()
    # Linear in each channel, one per pair: the gradient is the cost.
    assert pairs.count_nonzero() > 6
    assert gate.grad.sum() == pairs.sum()
