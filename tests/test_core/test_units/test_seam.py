# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The seam carries parts of another kind: positions in a kernel (stripes).

A unit for tests, in one file, that touches nothing outside of itself: what
is removed is position (y, x) of filter o (SWP, arXiv 2009.14410).
"""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import ChannelPlan, attach, narrow
from mmlapp.core.cost import StoredTensor
from mmlapp.core.groups import ChannelGroup, Groups
from mmlapp.core.heirs import Heir
from mmlapp.core.mask.gate import ParameterMask
from mmlapp.core.mask.masked import AppliedMask, add_mask
from mmlapp.core.plan.layout import Layout
from mmlapp.core.score.group_scores import Layer
from mmlapp.core.units import UNITS, Found, Unit, register_unit


class StripeMask(ParameterMask):
    """Multiplies a weight [out, in, y, x] by the gate of [out, y, x]."""

    def __call__(self, parameter):
        out, _, *size = parameter.shape
        gate = self.source.factor[self.channels].to(parameter.dtype)
        return parameter * gate.view(out, 1, *size)


class StripedConv(nn.Module):
    """Keeps [stripes, in] of a weight, and spreads it to run."""

    def __init__(self, conv, kept):
        super().__init__()
        self.shape = conv.weight.shape
        self.stride, self.padding = conv.stride, conv.padding
        self.kept = kept
        self.bias = conv.bias

    def forward(self, x):
        out, inputs, *size = self.shape
        rows = self.weight.new_zeros(len(self.kept), inputs)
        rows = rows.masked_scatter(self.kept[:, None], self.weight)
        weight = rows.view(out, *size, inputs).movedim(-1, 1)
        return functional.conv2d(
            x, weight, self.bias, self.stride, self.padding
        )


def rows_of(weight):
    """[out, in, y, x] -> [out * y * x, in]."""
    return weight.movedim(1, -1).flatten(0, 2)


class Stripes(Unit):
    floor = 1

    def find(self, request, verify):
        request.gathering.groups()
        graph, items, starts = request.record.graph, [], {}
        for name, layer in request.model.named_modules():
            if isinstance(layer, nn.Conv2d):
                size = layer.weight[:, 0].numel()
                starts[name] = int(graph.new(size)[0])
                items.append(ChannelGroup(name, size, ()))
        channel = torch.full((graph.size,), -1)
        owner = channel.clone()
        total = 0
        for number, item in enumerate(items):
            span = slice(starts[item.name], starts[item.name] + item.size)
            channel[span] = torch.arange(item.size) + total
            owner[span] = number
            total += item.size
        return Found(Groups(tuple(items), channel, owner))

    def nodes(self, analysis, name):
        """Its own nodes are the last of the graph, group by group."""
        groups = analysis.groups.items
        end = analysis.groups.node_channel.numel()
        sizes = {group.name: group.size for group in groups}
        names = list(sizes)
        later = names[names.index(name) :]
        start = end - sum(sizes[n] for n in later)
        return torch.arange(start, start + sizes[name])

    def scored_layers(self, model, analysis, group):
        layer = model.get_submodule(group.name)
        parts = torch.arange(group.size)
        return [Layer(group.name, layer, (0, 2, 3), parts)]

    def calls(self, analysis):
        names = {group.name for group in analysis.groups.items}
        return [
            replace(call, dims={'stripes': self.nodes(analysis, call.name)})
            if call.name in names
            else replace(call, dims={})
            for call in analysis.trace.calls
        ]

    def tensors(self, model, analysis):
        weights = {f'{g.name}.weight': g for g in analysis.groups.items}
        return [
            StoredTensor(
                name,
                tuple(p.shape),
                {0: self.nodes(analysis, weights[name].name)}
                if name in weights
                else {},
            )
            for name, p in model.named_parameters()
        ]

    def branch_ends(self, analysis, name):
        return None

    def channels(self, analysis, name):
        return analysis.groups.channels_at(self.nodes(analysis, name))

    def add_masks(self, model, source, analysis):
        masks = []
        for group in analysis.groups.items:
            channels = self.channels(analysis, group.name)
            mask = StripeMask(source, channels, 0)
            add_mask(model.get_submodule(group.name), 'weight', mask)
            masks.append(AppliedMask(group.name, 'weight', mask))
        return masks

    def layout(self, model, analysis):
        details = {
            group.name: {'positions': self.channels(analysis, group.name)}
            for group in analysis.groups.items
        }
        return Layout('test_stripes', [], details=details)

    def check_layer(self, layer, details, slices):
        assert details['positions'].size == layer.weight[:, 0].numel()

    def narrow_layer(self, layer, details):
        kept = details['positions'].mask()
        old = layer.weight
        striped = StripedConv(layer, kept)

        def take(value):
            return rows_of(value.detach())[kept].clone()

        striped.weight = nn.Parameter(take(old))
        layer.__class__ = StripedConv
        layer.__dict__.update(striped.__dict__)
        return {old: [Heir(layer.weight, take)]}


@pytest.fixture(scope='module', autouse=True)
def registered():
    register_unit('test_stripes')(Stripes)
    yield
    del UNITS._entries['test_stripes']


def train(model, optimizer, images, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
        if hasattr(model, 'pruner'):
            model.pruner.step()


@pytest.mark.parametrize('method', ['lapp', 'uniform'])
@pytest.mark.parametrize('score', ['l2', 'fpgm', 'taylor'])
def test_stripes_plug_in(make, images, tmp_path, method, score):
    """Attach, train to the budget, narrow with the optimizer, deploy."""
    model = make()
    dense = copy.deepcopy(model)
    pruner = attach(
        model, images, unit='test_stripes', method=method, score=score
    )
    assert pruner.sizes == [9 * 8, 9 * 12, 9 * 16, 9 * 5]
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    pruner.begin({'flops': 0.5, 'parameters': 0.6}, 8)
    train(model, optimizer, images, 8)
    ratios = pruner.ratios()
    assert ratios['flops'] <= 0.5
    assert ratios['parameters'] <= 0.6
    assert ratios['flops'] > 0.45 or ratios['parameters'] > 0.55

    plan, twin = pruner.plan(), copy.deepcopy((model, optimizer))
    expected = copy.deepcopy(model).eval()(images)
    narrow(model, plan, optimizer)
    found = sum(p.numel() for p in model.parameters())
    assert found == plan.costs['parameters']['pruned']
    # Momentum is narrowed too: both go on alike.
    for network, its in ((model, optimizer), twin):
        train(network.train(), its, images, 3)
    torch.testing.assert_close(
        model.eval()(images), twin[0].eval()(images), rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(model(images), expected)

    plan.save(tmp_path / 'plan.json')
    deployed = narrow(dense, ChannelPlan.load(tmp_path / 'plan.json'))
    deployed.load_state_dict(model.state_dict())
    torch.testing.assert_close(deployed.eval()(images), model.eval()(images))
