# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a tensor shows of a write into another one on its storage."""

from dataclasses import replace

import pytest
import torch

from mmlapp.core.trace.graph import ChannelGraph
from mmlapp.core.trace.labels import Axis, Labels
from mmlapp.core.trace.memory import LOST, PART, seen

OLD, NEW = torch.arange(6), torch.arange(10, 16)


@pytest.fixture
def graph():
    graph = ChannelGraph()
    graph.new(30)
    return graph


@pytest.fixture
def whole():
    """[N, C, L] with C = 6."""
    return torch.zeros(2, 6, 4)


def labels(ids, zero=True, dim=1, **others):
    return Labels({dim: Axis(ids, zero)}, **others)


def frozen(graph):
    return set(graph.frozen_reasons(graph.resolve()).values())


@pytest.mark.parametrize('kept_zero', [True, False])
def test_a_part_of_all_channels_is_tied_to_the_rest(graph, whole, kept_zero):
    part = whole[:, :, ::2]
    found = seen(graph, (part, labels(NEW)), (whole, labels(OLD, kept_zero)))
    assert found.axes[1].ids.tolist() == OLD.tolist()
    assert found.axes[1].zero is kept_zero
    assert graph.resolve()[NEW].tolist() == OLD.tolist()
    assert not frozen(graph)


def test_some_of_the_channels_are_tied_to_those_that_lie_there(graph, whole):
    found = seen(graph, (whole[:, 3:], labels(NEW[:3])), (whole, labels(OLD)))
    assert found.axes[1].zero
    assert graph.resolve()[NEW].tolist() == [3, 4, 5, 13, 14, 15]


def test_all_of_it_says_anew_whether_it_is_zero(graph, whole):
    """Through a view of another shape, whose channels come last."""
    part = whole.transpose(1, 2)
    new = labels(NEW, zero=True, dim=2)
    found = seen(graph, (part, new), (whole, labels(OLD, False)))
    assert found.axes[1].zero
    found = seen(graph, (part, new), (whole, Labels()))
    assert found.axes[1].ids.tolist() == NEW.tolist()


def test_what_comes_from_no_channel_is_not_zero(graph, whole):
    found = seen(graph, (whole[:, :, 0], Labels()), (whole, labels(OLD)))
    assert found.axes[1].ids.tolist() == OLD.tolist()
    assert not found.axes[1].zero


def test_what_lies_elsewhere_stays_as_it_was(graph, whole):
    before = labels(OLD[:3])
    pieces = whole[:, :3], whole[:, 3:]
    assert seen(graph, (pieces[1], labels(NEW)), (pieces[0], before)) is before


def test_a_size_of_the_code_does_not_shrink(graph, whole):
    found = seen(graph, (whole[:, :, :2], labels(NEW)), (whole, Labels()))
    assert found.axes == {}
    assert frozen(graph) == {PART}


def test_channels_that_end_in_one_place_are_frozen(graph, whole):
    """Seen along one row of it, which is all of one channel."""
    other = whole[0, 0]
    seen(graph, (whole, labels(NEW)), (other, Labels()))
    assert frozen(graph) == {LOST}


@pytest.mark.parametrize(
    'before',
    [
        labels(OLD, stale=True),
        labels(OLD, once_read=(OLD, 'a reason')),
        Labels({1: replace(Axis(OLD), grid=OLD[None, :, None])}),
    ],
)
def test_what_it_cannot_tell(graph, whole, before):
    assert seen(graph, (whole[:, 1:], labels(NEW)), (whole, before)) is None


def test_numbers_of_another_width_cannot_be_told(graph, whole):
    part = whole.view(torch.uint8)
    assert seen(graph, (part, Labels()), (whole, labels(OLD))) is None
