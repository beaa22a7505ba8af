# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What layers have in common, on labels made by hand."""

import pytest
import torch
from torch import nn

from mmlapp.core.trace.labels import Axis, Labels
from mmlapp.core.trace.rules import FALLBACK, RULES
from mmlapp.core.trace.rules.layer import (
    all_but,
    check_zero,
    emit,
    ids_of,
    register,
    tie_own,
)
from mmlapp.core.trace.tracer import Tracer


@pytest.fixture
def layer():
    return nn.Linear(3, 4)


@pytest.fixture
def tracer(layer):
    """Of a network with one layer; its first nodes are the weight's."""
    tracer = Tracer(layer, RULES, FALLBACK)
    tracer.labels(layer.weight)
    return tracer


def frozen(tracer):
    return tracer.graph.frozen_reasons(tracer.graph.resolve())


def test_labels_along_a_dimension_are_blank_without_any():
    labels = Labels({1: Axis(torch.tensor([5, 6]))})
    assert ids_of(labels, 1, 2).tolist() == [5, 6]
    assert ids_of(labels, 0, 3).tolist() == [-1, -1, -1]
    assert list(all_but(labels, 0).axes) == [1]
    assert list(all_but(labels, 1).axes) == []


OPEN, ZERO = (Axis(torch.tensor([7, 8, 9]), zero=z) for z in (False, True))


def test_a_contraction_with_a_zero_on_one_side_needs_nothing(tracer, layer):
    kernel = tracer.labels(layer.weight)
    check_zero(tracer, ZERO, kernel, 1)
    check_zero(tracer, None, kernel, 1)
    check_zero(tracer, OPEN, Labels({1: ZERO}), 1)
    check_zero(tracer, OPEN, Labels(), 1)
    assert not tracer.trace.readers
    assert not frozen(tracer)
    # What holds as long as the input is zero is noted.
    (site,) = tracer.trace.trusting
    assert (site.name, site.dim) == ('weight', 1)


def test_a_weight_without_zeros_is_masked_where_it_reads(tracer, layer):
    check_zero(tracer, OPEN, tracer.labels(layer.weight), 1)
    (site,) = tracer.trace.readers
    assert (site.name, site.dim) == ('weight', 1)
    assert not tracer.trace.trusting


def test_what_no_mask_reaches_is_frozen(tracer):
    tracer.graph.new(20)
    check_zero(tracer, OPEN, Labels({0: OPEN}), 0)
    check_zero(tracer, ZERO, Labels({0: Axis(torch.arange(10, 13), False)}), 0)
    assert set(frozen(tracer)) == {7, 8, 9}
    assert not tracer.trace.trusting


def test_a_layer_emits_its_rows_with_the_bias(tracer, layer):
    rows = tracer.labels(layer.weight).axes[0]
    out = torch.empty(2, 4)
    emit(tracer, out, 1, Axis(rows.ids, True), layer.bias)
    labels = tracer.labels(out)
    assert labels.axes[1].ids is rows.ids
    assert labels.axes[1].zero
    assert labels.maker == 0
    bias = tracer.labels(layer.bias).axes[0]
    root = tracer.graph.resolve()
    assert root[bias.ids].tolist() == root[rows.ids].tolist()


def test_a_computed_bias_is_not_zero_where_channels_are_removed(tracer, layer):
    rows = tracer.labels(layer.weight).axes[0]
    axis, maker = register(tracer, Axis(rows.ids, True), torch.ones(4))
    assert (axis.zero, maker) == (False, 0)
    # It belongs to no channel: nothing that it shifts may be removed.
    assert set(frozen(tracer)) == set(rows.ids.tolist())


def test_where_no_parameter_emits_there_is_no_layer(tracer):
    blank = Axis(torch.full((4,), -1), True)
    out = torch.empty(2, 4)
    emit(tracer, out, 1, blank, None)
    assert tracer.labels(out).axes == {}
    assert tracer.labels(out).maker is None


def test_own_tensors_are_tied_where_they_have_as_many_channels(tracer, layer):
    ids = tracer.graph.new(4)
    tie_own(tracer, None, ids)
    tie_own(tracer, layer.weight, ids)
    first, second = tracer.labels(layer.weight).axes.values()
    root = tracer.graph.resolve()
    assert root[ids].tolist() == first.ids.tolist()
    assert root[second.ids].tolist() == second.ids.tolist()
