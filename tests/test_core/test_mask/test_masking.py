# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which parameters read the gate, and through which of their dimensions."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmlapp.core import analyse, attach
from mmlapp.core.mask.masking import (
    layer_ends,
    mask_parameters,
    sharing_modules,
    sites_of_groups,
)


@pytest.fixture
def found(model, images):
    return analyse(model, lambda: model(images))


def test_a_norm_carries_the_mask_of_its_layer(model, found, read):
    source = SimpleNamespace(active=True, factor=torch.ones(36))
    record = found.trace
    masks = mask_parameters(
        model,
        source,
        record,
        found.groups,
        record.masked.__contains__,
        record.compared,
    )
    assert {(p.module, p.parameter) for p in masks} == {
        ('a', 'weight'),
        ('a', 'bias'),
        ('norm', 'weight'),
        ('norm', 'bias'),
        ('c', 'weight'),
        ('c', 'bias'),
    }
    source.factor[8:20] = 0  # group b
    assert not read(model.norm).any()
    assert read(model.b).any()


def test_all_dimensions_that_shrink(model, found):
    sites = sites_of_groups(model, found.trace, found.groups)
    names = {(site.name, site.dim) for site, _ in sites}
    assert names == {
        *((f'{layer}.weight', 0) for layer in 'abc'),
        *((f'{layer}.bias', 0) for layer in 'abc'),
        *((f'{layer}.weight', 1) for layer in 'bcd'),
        *(
            (f'norm.{name}', 0)
            for name in ('weight', 'bias', 'running_mean', 'running_var')
        ),
    }
    channels = {(s.name, s.dim): c.tolist() for s, c in sites}
    assert channels['b.weight', 0] == list(range(8, 20))
    assert channels['b.weight', 1] == list(range(8))


def test_both_ends_of_a_layer(found):
    inputs, outputs = layer_ends(found.trace, 'b')
    assert found.groups.channels_at(inputs).tolist() == list(range(8))
    assert found.groups.channels_at(outputs).tolist() == list(range(8, 20))


def test_everyone_who_has_a_parameter():
    one, two = nn.Linear(2, 2), nn.Linear(2, 2, bias=False)
    two.weight = one.weight
    found = sharing_modules(nn.Sequential(one, two).modules())
    assert found[id(one.weight)] == [(one, 'weight'), (two, 'weight')]
    assert found[id(one.bias)] == [(one, 'bias')]


def test_a_gate_learns_where_channels_are_emitted():
    """A head that has the table of an embedding reads them."""
    words = torch.randint(0, 11, (2, 6))
    table, found = torch.randn(11, 4), []
    for tied in (True, False):
        model = nn.Sequential(
            nn.Embedding(11, 4), nn.ReLU(), nn.Linear(4, 11, bias=False)
        )
        for layer in (model[0], model[2]):
            layer.weight = nn.Parameter(table.clone())
        if tied:
            model[2].weight = model[0].weight
        pruner = attach(model, words)
        pruner.begin({'flops': 0.5}, steps=2)
        model(words).square().mean().backward()
        found.append(pruner.gate.grad)
    torch.testing.assert_close(*found)
