# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A merged bypass computes what it did beside its convolution."""

import copy

import pytest
import torch
from torch import nn

from mmlapp.core import ConvBranch, attach, merge_bypasses, narrow
from mmlapp.core.bypass import BRANCHES
from mmlapp.core.bypass.beside import Bypassed, add_bypass
from mmlapp.core.bypass.merging import gained_biases


def narrowed(model, image, kind, unit, mask_randomly, keep=0.5):
    """A narrowed network with its bypasses, and the plan."""
    pruner = attach(model, image, bypass=kind, unit=unit)
    for name, parameter in model.named_parameters():
        if 'bypass' in name:
            nn.init.normal_(parameter, std=0.3)
    mask_randomly(pruner, keep)
    plan = pruner.plan()
    return narrow(model, plan).eval(), plan


CASES = [
    dict(),
    dict(stride=2),
    dict(dilation=2, padding=2),
    dict(padding_mode='reflect'),
    dict(size=5),
    dict(bias=False),
]


@pytest.mark.parametrize('kind', ['depthwise', 'pointwise', 'grouped'])
@pytest.mark.parametrize('case', CASES, ids=str)
def test_narrow_bypasses_vanish(
    net, conv, image, mask_randomly, count_macs, kind, case
):
    """Partial ones too: both ends of the second layer are narrowed."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x).relu()).relu()),
        a=conv(3, 12),
        b=conv(12, 16, **case),
        c=conv(16, 5),
    )
    slim, _ = narrowed(model, image, kind, 'channels', mask_randomly)
    assert isinstance(slim.b, Bypassed)
    expected, macs = slim(image), count_macs(slim, image)
    merged = merge_bypasses(slim)
    assert 'b' in merged
    assert set(merged.values()) == {None}
    torch.testing.assert_close(slim(image), expected, rtol=1e-12, atol=1e-12)
    assert all(type(m) is nn.Conv2d for m in (slim.a, slim.b, slim.c))
    assert not [n for n in slim.state_dict() if 'bypass' in n or 'kept' in n]
    assert count_macs(slim, image) < macs


def test_the_plan_of_a_merged_network(
    net, conv, image, mask_randomly, count_macs
):
    """A dense network takes plan and weights, and knows no bypass."""
    parts = dict(a=conv(3, 8), b=conv(8, 8), c=conv(8, 5))
    model = net(lambda m, x: m.c(m.b(m.a(x).relu()).relu()), **parts)
    dense = copy.deepcopy(model).eval()
    slim, plan = narrowed(model, image, 'depthwise', 'channels', mask_randomly)
    expected = slim(image)
    merged = merge_bypasses(slim)
    macs = count_macs(slim, image)
    plan = plan.without_branches(merged, {'flops': macs})
    assert not plan.branches
    assert plan.costs['flops']['pruned'] == macs
    again = narrow(dense, plan)
    again.load_state_dict(slim.state_dict())
    torch.testing.assert_close(again(image), expected)


def test_what_fills_removed_filters_stays(net, conv, image, mask_randomly):
    model = net(lambda m, x: m.b(m.a(x).relu()), a=conv(3, 8), b=conv(8, 8))
    slim, plan = narrowed(model, image, 'depthwise', 'filters', mask_randomly)
    expected = slim(image)
    reason = 'it fills removed filters'
    merged = merge_bypasses(slim)
    assert merged['b'] == reason
    assert torch.equal(slim(image), expected)
    assert 'b' in plan.without_branches(merged, {}).branches


def test_a_fill_bypass_beside_all_filters_vanishes(
    net, conv, image, mask_randomly
):
    model = net(lambda m, x: m.b(m.a(x).relu()), a=conv(3, 8), b=conv(8, 8))
    slim, _ = narrowed(
        model, image, 'depthwise', 'filters', mask_randomly, keep=1.0
    )
    expected = slim(image)
    merged = merge_bypasses(slim)
    assert set(merged.values()) == {None}
    torch.testing.assert_close(slim(image), expected)
    assert type(slim.b) is nn.Conv2d


def test_a_bypass_that_vanished_before_is_no_mixin_either(
    net, conv, image, mask_randomly
):
    """One channel of sixteen is left: its group reads nothing that lives."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x).relu())),
        a=conv(3, 16),
        b=conv(16, 16),
        c=conv(16, 5),
    )
    pruner = attach(model, image, bypass='depthwise')
    pruner.set_mask(torch.isin(torch.arange(32), torch.tensor([0, 17])))
    plan = pruner.plan()
    slim = narrow(model, plan).eval()
    assert slim.b.bypass is None
    merged = merge_bypasses(slim)
    assert 'b' not in merged
    assert type(slim.b) is nn.Conv2d
    assert not plan.without_branches(merged, {}).branches


def test_a_smaller_kernel_of_ones_own(
    net, conv, image, mask_randomly, monkeypatch
):
    """3x3 inside 5x5, of a registered bypass."""

    class Inner(ConvBranch):
        def make(self, layer):
            return nn.Conv2d(
                layer.in_channels, layer.out_channels, 3, padding=1, bias=False
            ).to(layer.weight.dtype)

    monkeypatch.setitem(BRANCHES._entries, 'inner', Inner)
    model = net(
        lambda m, x: m.b(m.a(x).relu()),
        a=conv(3, 8, size=5),
        b=conv(8, 5, size=5),
    )
    slim, _ = narrowed(model, image, 'inner', 'channels', mask_randomly)
    expected = slim(image)
    assert merge_bypasses(slim) == {'a': None}
    torch.testing.assert_close(slim(image), expected)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('kind', ['depthwise', 'pointwise', 'grouped'])
def test_a_branch_with_a_norm_is_merged(
    net, conv, image, mask_randomly, randomise, kind, bias
):
    """Scale and shift of the norm become filters and bias."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x).relu()).relu()),
        a=conv(3, 12),
        b=conv(12, 16, bias=bias),
        c=conv(16, 5),
    )
    pruner = attach(model, image, bypass=dict(type=kind, norm=True))
    randomise(model).eval()
    mask_randomly(pruner)
    slim = narrow(model, pruner.plan())
    expected = slim(image)
    assert merge_bypasses(slim)['b'] is None
    torch.testing.assert_close(slim(image), expected, rtol=1e-12, atol=1e-12)
    assert type(slim.b) is nn.Conv2d


def test_layers_that_gained_a_bias():
    """A norm's shift needs a place; who had a bias before gained none."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
    )
    known = dict(model.named_parameters())
    for layer in model:
        add_bypass(layer, BRANCHES.build('asymmetric', layer))
    merged = merge_bypasses(model.eval())
    assert merged == {'0': None, '1': None}
    assert gained_biases(model, merged, known) == ['1']
    stays = {**merged, '1': 'a reason'}
    assert gained_biases(model, stays, known) == []
