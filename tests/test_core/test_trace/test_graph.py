# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from itertools import pairwise

import pytest
import torch

from mmlapp.core.trace.graph import NO_CHANNEL, ChannelGraph


def components_by_search(size, edges):
    """Smallest node that each node reaches, by following every edge."""
    root = list(range(size))
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            low = min(root[a], root[b])
            changed |= root[a] != low or root[b] != low
            root[a] = root[b] = low
    return root


@pytest.mark.parametrize('edge_count', [0, 1, 20, 60, 200])
def test_resolve_finds_connected_components(edge_count):
    graph = ChannelGraph()
    graph.new(60)
    edges = torch.randint(0, 60, (edge_count, 2))
    graph.unite(edges[:, 0], edges[:, 1], 'test')
    expected = components_by_search(60, edges.tolist())
    assert graph.resolve().tolist() == expected


def test_resolve_goes_on_where_it_was():
    """Asked between, it finds what it finds at the end."""
    graph, known = ChannelGraph(), []
    for _ in range(12):
        graph.new(5)
        edges = torch.randint(0, graph.size, (3, 2))
        graph.unite(edges[:, 0], edges[:, 1], 'test')
        known += edges.tolist()
        found = graph.resolve()
        assert found.tolist() == components_by_search(graph.size, known)
        assert graph.resolve().tolist() == found.tolist()
        graph.resolve().zero_()  # which is the caller's


def test_resolve_follows_a_long_chain_in_any_order():
    graph = ChannelGraph()
    nodes = graph.new(500)[torch.randperm(500)]
    for a, b in pairwise(nodes):
        graph.unite(a, b, 'test')
    assert graph.resolve().unique().tolist() == [0]


def test_new_nodes_are_never_repeated():
    graph = ChannelGraph()
    assert graph.new(2).tolist() == [0, 1]
    assert graph.new(3).tolist() == [2, 3, 4]


def test_a_node_that_meets_a_constant_is_frozen():
    graph = ChannelGraph()
    nodes = graph.new(3)
    none = torch.tensor([5, NO_CHANNEL, NO_CHANNEL])
    graph.new(3)
    graph.unite(nodes, none, 'padded')
    assert graph.resolve().tolist() == [0, 1, 2, 3, 4, 0]
    assert graph.frozen_reasons(graph.resolve()) == {1: 'padded', 2: 'padded'}


def test_two_constants_freeze_nothing():
    graph = ChannelGraph()
    graph.new(2)
    none = torch.full((2,), NO_CHANNEL)
    graph.unite(none, none, 'test')
    assert graph.frozen_reasons(graph.resolve()) == {}


def test_a_frozen_node_freezes_its_component_for_the_first_reason():
    graph = ChannelGraph()
    nodes = graph.new(4)
    graph.freeze(nodes[2:3], 'first')
    graph.freeze(nodes[1:2], 'second')
    graph.unite(nodes[1:2], nodes[2:3], 'test')
    assert graph.frozen_reasons(graph.resolve()) == {1: 'first'}


def test_labels_broadcast():
    graph = ChannelGraph()
    nodes = graph.new(6).view(2, 3)
    graph.unite(nodes, nodes[:1], 'test')
    assert graph.resolve().tolist() == [0, 1, 2, 0, 1, 2]
