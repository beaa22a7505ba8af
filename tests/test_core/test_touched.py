# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import analyse, touched
from mmlapp.core.touched import roots, touched_sites
from mmlapp.core.trace import trace
from mmlapp.core.trace.graph import BASE


def test_what_is_read_behind_a_flatten_is_touched_several_times():
    """Each of 3 channels stands at 4 of the 12 inputs, and once elsewhere."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(12, 2))
    record = trace(model, lambda: model(torch.rand(1, 2, 2, 2)))
    root = record.graph.resolve()
    found = touched_sites(record, root)
    sites = {s.name: i for i, s in enumerate(record.sites) if not s.dim}
    weight = record.sites[sites['0.weight']]
    channels = root[weight.start : weight.start + 3]
    assert len(channels.unique()) == 3
    assert found.same(channels)
    # The two outputs touch something else.
    output = root[record.sites[sites['2.weight']].start][None]
    assert not found.same(torch.cat([channels[:1], output]))
    assert len(found.marks(torch.cat([channels, output])).unique()) == 2
    times = {}
    for key in found.keys(int(channels[0])):
        number, often = divmod(key, BASE)
        if number < len(record.sites):
            site = record.sites[number]
            times[site.name, site.dim] = often
    assert times['0.weight', 0] == times['0.bias', 0] == 1
    assert times['2.weight', 1] == 4


def test_roots_leave_out_what_has_no_label():
    root = torch.tensor([0, 0, 2])
    assert roots(root, torch.tensor([2, -1, 1])).tolist() == [2, 0]


def test_what_only_seems_alike_is_noticed(conv, image, monkeypatch):
    """As if one number stood for different channels."""
    model = nn.Sequential(conv(3, 6), conv(6, 4), conv(4, 8)).double()
    monkeypatch.setattr(touched, 'MIXER', 0)
    with pytest.raises(AssertionError):
        analyse(model, image)
