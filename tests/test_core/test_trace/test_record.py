# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a trace tells of a small network, by hand."""

import pytest
import torch
from torch import nn

from mmlapp.core.cost.flops import multiply_adds
from mmlapp.core.trace import Site, Trace, trace
from mmlapp.core.trace.record import LivingModule


@pytest.fixture
def record(net, conv, image):
    model = net(
        lambda m, x: m.c(m.b(m.norm(m.a(x))).sigmoid()),
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        b=conv(8, 4, bias=False),
        c=conv(4, 5),
    )
    return trace(model, lambda: model(image))


def names(sites):
    return {(site.name, site.dim) for site in sites}


def test_the_module_of_a_tensor():
    assert Site('stem.conv.weight', 0, 0, 8).module == 'stem.conv'
    assert Site('scale', 0, 0, 8).module == ''


def test_sites_follow_each_other_without_a_gap(record):
    end = 0
    for site in record.sites:
        assert site.start == end
        end += site.size
    assert end == record.graph.size


def test_producers_are_the_output_sides(record):
    assert names(record.producers) == {(f'{m}.weight', 0) for m in 'abc'}


def test_a_norm_is_masked_in_place_of_its_layer(record):
    masked = {name for name, _ in names(record.masked)}
    assert {'norm.weight', 'norm.bias', 'b.weight'} <= masked
    assert 'a.weight' not in masked
    assert record.norms == {'a': 'norm.weight'}


def test_who_reads_what_is_not_zero_is_a_reader(record):
    """Behind a sigmoid a removed channel is one half."""
    assert names(record.readers) == {('c.weight', 1)}


def test_one_term_for_each_layer(record):
    assert [call.name for call in record.calls] == ['a', 'b', 'c']
    assert multiply_adds(record.calls[1]) == 2 * 64 * 9 * 8 * 4


def test_a_module_that_is_called_twice_is_noted_with_its_smallest_input():
    record = Trace()
    first = torch.arange(2)
    record.graph.new(4)
    for ids, shape in ((first, (2, 2, 9, 1)), (first + 2, (2, 2, 1, 7))):
        record.note_living(LivingModule('norm', 1, ids, ids, shape))
    assert record.living_modules['norm'].shape == (2, 2, 1, 1)
    # What goes in at one call goes in at the other.
    assert record.graph.resolve().tolist() == [0, 1, 0, 1]
