# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Grouped bypasses narrowed at both ends, against the dense ones."""

import pytest
import torch
from torch import nn

from mmlapp.core.bypass.narrowed import (
    PartialBypass,
    narrow_bypass,
    pair_channels,
    parts,
)

SHAPES = [(8, 8, 8), (8, 16, 8), (12, 8, 4), (6, 9, 3), (8, 8, 1)]


def random_kept(size):
    kept = torch.rand(size) > 0.5
    kept[torch.randint(size, (1,))] = True
    return kept


def dense_bypass(inputs, outputs, groups, **arguments):
    return nn.Conv2d(
        inputs, outputs, 3, padding=1, groups=groups, bias=False, **arguments
    ).double()


@pytest.mark.parametrize(('inputs', 'outputs', 'groups'), SHAPES)
def test_a_narrowed_bypass_computes_the_same(inputs, outputs, groups):
    for _ in range(5):
        dense = dense_bypass(inputs, outputs, groups, stride=2)
        kept_in, kept_out = random_kept(inputs), random_kept(outputs)
        x = torch.randn(2, inputs, 6, 6).double()
        x[:, ~kept_in] = 0
        narrow = PartialBypass(dense, kept_in, kept_out)
        if not narrow.convs:
            continue
        torch.testing.assert_close(
            narrow(x[:, kept_in]), dense(x)[:, kept_out]
        )


@pytest.mark.parametrize(('inputs', 'outputs', 'groups'), SHAPES)
def test_pairs_by_loops(inputs, outputs, groups):
    a, b = torch.arange(inputs) + 100, torch.arange(outputs)
    expected = {
        (i + 100, o)
        for i in range(inputs)
        for o in range(outputs)
        if i // (inputs // groups) == o // (outputs // groups)
    }
    first, second = pair_channels(groups, a, b)
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected


@pytest.mark.parametrize(('inputs', 'outputs', 'groups'), SHAPES)
def test_parts_have_the_weights_of_the_pairs_left(inputs, outputs, groups):
    kept_in, kept_out = random_kept(inputs), random_kept(outputs)
    found = sum(p.columns.numel() for p in parts(groups, kept_in, kept_out))
    first, second = pair_channels(
        groups, torch.arange(inputs), torch.arange(outputs)
    )
    assert found == int((kept_in[first] & kept_out[second]).sum())


class Layer(nn.Module):
    def __init__(self, bypass):
        super().__init__()
        self.bypass = bypass


def test_what_keeps_all_is_left_alone():
    dense = dense_bypass(8, 8, 8)
    layer = Layer(dense)
    narrow_bypass(layer, torch.ones(8).bool(), torch.ones(8).bool())
    assert layer.bypass is dense


def test_a_plain_rest_is_a_plain_convolution():
    """The same channels at both ends of a depthwise bypass."""
    kept = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0]).bool()
    dense = dense_bypass(8, 8, 8).eval()
    layer = Layer(dense)
    narrow_bypass(layer, kept, kept)
    assert isinstance(layer.bypass, nn.Conv2d)
    assert layer.bypass.groups == 4
    torch.testing.assert_close(layer.bypass.weight, dense.weight[kept])


def test_the_mode_is_kept():
    dense = dense_bypass(8, 8, 8).eval()
    layer = Layer(dense)
    narrow_bypass(layer, random_kept(8), torch.ones(8).bool())
    assert not layer.bypass.training


def test_nothing_is_left():
    layer = Layer(dense_bypass(4, 4, 4))
    first = torch.tensor([1, 1, 0, 0]).bool()
    narrow_bypass(layer, first, ~first)
    assert layer.bypass is None
