# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Parameters by count: `agree` compares them for every network."""

import copy

import pytest
import torch
from torch import nn

from mmlapp.core import attach, merge_bypasses, narrow


@pytest.fixture
def net_with_all(net, conv):
    """Shared weights, a layer that runs twice, a bare parameter."""
    head = nn.Linear(8, 5)

    def forward(m, x):
        x = m.norm(m.a(x)).relu()
        x = m.b(m.b(x)) * m.gain
        return m.head(x.mean((2, 3))) + m.twin(x.amax((2, 3)))

    twin = nn.Linear(8, 5, bias=False)
    twin.weight = head.weight
    return net(
        forward,
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        b=conv(8, 8),
        gain=nn.Parameter(torch.ones(8, 1, 1)),
        head=head,
        twin=twin,
    )


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_as_pytorch_counts_them(net_with_all, image, agree):
    dense = count(net_with_all)
    result = agree(net_with_all, image)
    cost = result.plan.costs['parameters']
    assert cost['dense'] == dense
    assert cost['pruned'] == count(result.slim) < dense


@pytest.mark.parametrize('norm', [False, True])
def test_a_branch_of_a_layer_that_runs_twice_counts_once(
    net_with_all, image, norm
):
    bypass = dict(type='depthwise', norm=norm)
    pruner = attach(net_with_all, image, bypass=bypass)
    every = torch.ones(len(pruner.gate))
    assert float(pruner.cost('parameters')(every)) == count(net_with_all)


@pytest.mark.parametrize(
    'target', [{'parameters': 0.4}, {'flops': 0.7, 'parameters': 0.4}]
)
@pytest.mark.parametrize('method', ['lapp', 'uniform'])
def test_targets_hold_together(make, images, target, method):
    model = make()
    pruner = attach(model, images, method=method)
    pruner.begin(target, 12)
    for _ in range(12):
        model(images).square().mean().backward()
        pruner.step()
    ratios = pruner.ratios()
    assert all(ratios[name] <= value for name, value in target.items())
    assert max(ratios[n] / v for n, v in target.items()) > 0.93
    slim = narrow(copy.deepcopy(model), pruner.plan())
    assert count(slim) / count(make()) == pytest.approx(ratios['parameters'])
    assert pruner.plan().costs['parameters']['target'] == 0.4


def test_gradient_by_the_gate_is_exact(net_with_all, image):
    pruner = attach(net_with_all, image)
    gate = torch.rand(len(pruner.gate)).double().requires_grad_()
    torch.autograd.gradcheck(pruner.cost('parameters'), gate)


@pytest.mark.parametrize('unit', ['channels', 'filters'])
@pytest.mark.parametrize(
    'bypass', ['depthwise', dict(type='pointwise', norm=True), 'twin']
)
def test_branches_of_what_only_training_runs(
    net, conv, image, mask_randomly, unit, bypass
):
    """They are stored, and cost no multiply-adds on the example."""
    if bypass == 'twin' and unit == 'filters':
        pytest.skip('filters are filled, by what is not merged')
    model = net(
        lambda m, x: (
            (m.c(m.a(x)), m.second(m.first(m.a(x)).relu()))
            if m.training
            else (m.c(m.a(x)),)
        ),
        a=conv(3, 8),
        c=conv(8, 4),
        first=conv(8, 6, bias=False),
        second=conv(6, 4),
    ).eval()
    dense = attach(copy.deepcopy(model), image).cost('flops').dense
    pruner = attach(model, image, unit=unit, bypass=bypass)
    assert hasattr(model.first, 'bypass')
    mask_randomly(pruner)
    plan = pruner.plan()
    slim = merge(narrow(copy.deepcopy(model), plan), bypass)
    assert plan.costs['parameters']['pruned'] == count(slim)
    assert plan.costs['flops']['dense'] == dense


def merge(model, bypass):
    if bypass == 'twin':
        merge_bypasses(model)
    return model
