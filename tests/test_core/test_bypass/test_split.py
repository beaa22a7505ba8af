# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Grouped bypasses narrowed at both ends, against the dense ones."""

import pytest
import torch
from torch import nn

from mmlapp.core.bypass.split import SplitConv, parts

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
        narrow = SplitConv(dense, kept_in, kept_out)
        if not narrow.convs:
            continue
        torch.testing.assert_close(
            narrow(x[:, kept_in]), dense(x)[:, kept_out]
        )


@pytest.mark.parametrize(('inputs', 'outputs', 'groups'), SHAPES)
def test_parts_have_the_weights_of_the_pairs_left(inputs, outputs, groups):
    kept_in, kept_out = random_kept(inputs), random_kept(outputs)
    found = sum(p.columns.numel() for p in parts(groups, kept_in, kept_out))
    expected = sum(
        bool(kept_in[i] & kept_out[o])
        for i in range(inputs)
        for o in range(outputs)
        if i // (inputs // groups) == o // (outputs // groups)
    )
    assert found == expected


@pytest.mark.parametrize('arguments', [dict(), dict(stride=2)])
def test_no_pair_is_left(arguments):
    """Zeros of the size that the dense one has."""
    dense = dense_bypass(4, 4, 4, **arguments)
    first = torch.tensor([1, 1, 0, 0]).bool()
    x = torch.randn(2, 4, 7, 7).double()
    found = SplitConv(dense, first, ~first)(x[:, first])
    assert torch.equal(found, torch.zeros_like(dense(x)[:, ~first]))
