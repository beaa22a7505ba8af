# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core.trace.graph import ChannelGraph
from mmlapp.core.trace.labels import (
    EMPTY,
    Axis,
    Labels,
    common_constant,
    gather_axis,
    move,
    spread,
    tie_pieces,
    without_zero,
)


@pytest.fixture
def graph():
    graph = ChannelGraph()
    graph.new(100)
    return graph


def test_spread_repeats_labels_along_the_other_dimensions():
    labels = spread(Axis(torch.tensor([7, 8, 9])), 1, (2, 3, 4))
    expected = torch.tensor([7, 8, 9])[None, :, None].expand(2, 3, 4)
    assert torch.equal(labels, expected)


@pytest.mark.parametrize('dim', [0, 1, 2])
def test_gather_undoes_spread(graph, dim):
    ids = torch.randperm(5) + 10
    shape = [2, 3, 4]
    shape[dim] = 5
    found = gather_axis(graph, spread(Axis(ids), dim, shape), zero=True)
    assert found[0] == dim
    assert torch.equal(found[1].ids, ids)
    assert graph.resolve().tolist() == list(range(100))


def test_labels_without_variation_have_no_axis(graph):
    assert gather_axis(graph, torch.full((2, 3), 4), zero=True) is None


def test_a_cut_of_channels_in_two_dimensions_ties_across_the_smaller(graph):
    """C = 6 seen as 2 x 3: the three positions go in both halves."""
    dim, axis = gather_axis(graph, torch.arange(6).view(2, 3), zero=True)
    assert (dim, axis.ids.tolist()) == (1, [3, 4, 5])
    assert graph.resolve()[:6].tolist() == [0, 1, 2, 0, 1, 2]


def test_what_is_the_same_along_a_dimension_is_read_off_any_index():
    """Repeats of every kind, as padding beside them is looked for."""
    for number in range(200):
        generator = torch.Generator().manual_seed(number)
        shape = torch.randint(1, 4, (4,), generator=generator)
        repeated = torch.rand(4, generator=generator) < 0.5
        part = torch.where(repeated, 1, shape).tolist()
        labels = torch.randint(0, 30, part, generator=generator)
        labels = labels.expand(shape.tolist()).contiguous()
        # Beside every label padding, which is no channel.
        padded = torch.stack([labels, torch.full_like(labels, -1)], -1)
        found = []
        for tensor in labels, padded:
            graph = ChannelGraph()
            graph.new(30)
            axis = gather_axis(graph, tensor, zero=True)
            found.append((axis, graph.resolve().tolist()))
        (plain, tied), (beside, same) = found
        assert tied == same
        assert (plain is None) == (beside is None)
        if plain is not None:
            dim, axis = plain
            assert beside[0] == dim
            assert beside[1].ids.tolist() == axis.ids.tolist()


def test_constants_between_channels_tie_nothing(graph):
    """Zero padding in space leaves the channels apart."""
    labels = torch.tensor([[-1, 3, -1], [-1, 4, -1]])
    dim, axis = gather_axis(graph, labels[:, 1:], zero=True)
    assert (dim, axis.ids.tolist()) == (0, [3, 4])
    assert graph.resolve().tolist() == list(range(100))


def test_move_applies_the_operation_itself(graph):
    labels = Labels({1: Axis(torch.arange(6), zero=False)})

    def shuffle(tensor):
        tensor = tensor.view(2, 2, 3, 4).transpose(1, 2)
        return tensor.reshape(2, 6, 4)

    (found,) = move(graph, labels, (2, 6, 4), shuffle, [(2, 6, 4)], 'lost')
    assert list(found.axes) == [1]
    assert found.axes[1].ids.tolist() == [0, 3, 1, 4, 2, 5]
    assert not found.axes[1].zero
    assert graph.frozen_reasons(graph.resolve()) == {}


def test_move_freezes_what_it_loses(graph):
    labels = Labels({1: Axis(torch.arange(3))})
    move(graph, labels, (2, 3), lambda t: t[:, 0], [(2,)], 'lost')
    assert graph.frozen_reasons(graph.resolve()) == dict.fromkeys(
        range(3), 'lost'
    )


def test_pieces_are_tied_index_by_index(graph):
    assert tie_pieces(graph, Axis(torch.arange(6)), 2)
    assert graph.resolve()[:6].tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize('length', [0, 4, 5])
def test_unequal_pieces_are_refused(graph, length):
    assert not tie_pieces(graph, Axis(torch.arange(6)), length)
    assert graph.resolve().tolist() == list(range(100))


def test_without_zero_keeps_the_labels():
    labels = without_zero(Labels({1: Axis(torch.arange(3), zero=True)}))
    assert labels.axes[1].ids.tolist() == [0, 1, 2]
    assert not labels.axes[1].zero


def test_an_empty_selection_is_followed_as_one_of_an_element():
    """[0, C, 2] to [0, 2 C], each channel at two places."""
    graph = ChannelGraph()
    labels = Labels({1: Axis(graph.new(3))})
    (found,) = move(
        graph, labels, (0, 3, 2), lambda t: t.flatten(1), [(0, 6)], 'lost'
    )
    assert found.axes[1].ids.tolist() == [0, 0, 1, 1, 2, 2]
    assert graph.frozen_reasons(graph.resolve()) == {}


def test_what_makes_a_selection_empty_freezes():
    graph = ChannelGraph()
    labels = Labels({1: Axis(graph.new(3))})
    (found,) = move(graph, labels, (4, 3), lambda t: t[:0], [(0, 3)], 'lost')
    assert not found.axes
    reasons = graph.frozen_reasons(graph.resolve())
    assert reasons == dict.fromkeys(range(3), EMPTY)


def test_labels_of_no_element_tell_nothing():
    assert gather_axis(ChannelGraph(), torch.zeros(0, 3), True) is None


def test_a_constant_moves_with_the_values(graph):
    ids = torch.arange(3)
    labels = Labels({1: Axis(ids, zero=False)}, constant=2.0)
    (moved,) = move(graph, labels, (4, 3), torch.t, [(3, 4)], 'lost')
    assert (moved.value(0), moved.value(1)) == (2.0, None)
    # Another one is computed of it: of constants nothing is promised.
    assert without_zero(labels).value(1) is None
    assert not labels.masks_to_zero(1)


def test_joined_tensors_have_the_constant_of_all():
    ids = torch.arange(3)
    ones, zeros = Labels({0: Axis(ids, False)}, constant=1.0), Labels()
    assert common_constant([ones, zeros, ones]) == 1
    zeros.axes[0] = Axis(ids)
    assert common_constant([zeros]) == 0
    assert common_constant([ones, zeros]) is None
