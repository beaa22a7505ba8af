# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Every convolution is timed at its own size."""

import step_time
import torch
from layer_time import KINDS, Way, direct, measure, table
from torch import nn

from mmlapp.core import attach, narrow
from mmlapp.core.plan.kept import Kept
from mmlapp.core.units.striped import keep_stripes


def test_every_convolution_is_timed(small):
    rows = measure(small, 2, 4)
    assert [row['layer'] for row in rows] == ['0', '1', '2']
    assert [row['narrow_widths'] for row in rows] == [[3, 8], [8, 8], [8, 4]]
    assert [row['flops_ratio'] for row in rows] == [0.5, 0.25, 0.5]
    assert all(row[kind] > 0 for row in rows for kind in KINDS)
    assert table(rows).count('\n') == 1 + 3 + 1


def test_stripes_are_compared_with_as_many_whole_filters(small, monkeypatch):
    """The last layer has an output that must stay; forwards alone."""
    build, shape, _ = step_time.CASES[small]
    monkeypatch.setitem(step_time.CASES, small, (build, shape, 0.1))
    rows = measure(small, 1, 1, 'stripes', Way(forward=True), batch=1)
    assert [row['stripes'] for row in rows] == [False, False, True]
    assert rows[2]['narrow_widths'][1] == 4
    assert all(row[kind] > 0 for row in rows for kind in KINDS)
    text = table(rows)
    assert text.count('\n') == 1 + 3 + 2
    assert '| with stripes |' in text
    layer = nn.Conv2d(8, 10, 3)
    keep_stripes(layer, Kept(90, range(45)))
    assert direct(layer).weight.shape == (5, 8, 3, 3)


def test_a_layer_beside_a_branch_is_as_large_as_its_filters():
    """It emits eight channels, of which it computes three."""
    model = nn.Sequential(nn.Conv2d(4, 8, 3)).eval()
    pruner = attach(
        model, torch.rand(1, 4, 9, 9), unit='filters', bypass='depthwise'
    )
    pruner.set_mask(torch.arange(8) < 3)
    layer = narrow(model, pruner.plan())[0]
    assert layer.out_channels == 8
    assert direct(layer).weight.shape == (3, 4, 3, 3)
