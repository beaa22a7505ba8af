# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from joined_layers import JoinedLayers
from torch import nn

from mmlapp.core import analyse
from mmlapp.engine.analysis.layer_report import report_layers


class Gate(JoinedLayers):
    """The same, times a layer of a single channel and by a product."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Conv2d(3, 1, 1)

    def forward(self, image):
        y = super().forward(image) * self.gate(image)
        return y @ y.transpose(2, 3)


def layers_of(model):
    """Reports by name."""
    found = analyse(model.eval(), torch.rand(1, 3, 4, 4))
    return {layer.name: layer for layer in report_layers(model, found)}


def test_a_layer_of_several_groups():
    layers = layers_of(JoinedLayers())
    assert layers['whole'].groups == (1, 2)
    assert layers['whole'].prunable == 8
    assert layers['first'].groups == (1,)
    assert layers['second'].groups == (2,)
    assert layers['second'].prunable == 4


def test_products_of_attention_go_with_its_heads():
    layer = nn.TransformerEncoderLayer(16, 4, 8, batch_first=True).eval()
    found = analyse(layer, torch.rand(1, 3, 16))
    (name,) = found.groups.heads
    number = [g.name for g in found.groups.prunable].index(name) + 1
    products = [la for la in report_layers(layer, found) if not la.kind]
    assert products
    for product in products:
        assert product.groups == (number,)
        assert product.reason == 'with what it reads'
        assert product.prunable == 0


def test_what_a_layer_costs():
    layers = layers_of(JoinedLayers())
    flops = {'whole': 384, 'first': 192, 'second': 192, 'last': 256}
    assert {name: layer.flops for name, layer in layers.items()} == flops
    assert sum(la.share for la in layers.values()) == pytest.approx(1)
    assert (layers['last'].inputs, layers['last'].outputs) == (8, 2)


def test_why_a_layer_is_left_whole():
    layers = layers_of(Gate())
    assert layers['gate'].reason == 'a single channel'
    assert layers['gate'].prunable == 0
    assert layers['last'].groups == ()
    (product,) = set(layers) - {'whole', 'first', 'second', 'last', 'gate'}
    assert layers[product].reason == 'an operator without parameters'
    assert layers[product].kind == ''
    assert layers[product].outputs is None


def test_a_table_has_columns():
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 6), nn.Linear(6, 5))
    found = analyse(model, torch.zeros(1, 4, dtype=torch.long))
    table = report_layers(model, found)[0]
    assert (table.kind, table.inputs, table.outputs) == ('Embedding', None, 8)
    assert (table.flops, table.prunable, table.reason) == (0, 8, None)
