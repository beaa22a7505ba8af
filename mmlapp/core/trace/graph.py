# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Channel nodes and which of them must be kept or removed together."""

from __future__ import annotations

import torch
from torch import Tensor

NO_CHANNEL = -1
"""Label of an index that belongs to no channel: a constant, an image."""
# Nodes are below it: a pair is one int64, a * BASE + b < 2**62.
BASE = 2**31


class ChannelGraph:
    """Collects relations between channel nodes and resolves them once.

    A node is one index of one dimension of one parameter. Relations are kept
    as plain edge lists while the network is traced and turned into connected
    components at the end, so that tracing costs no union-find look-ups.

    Examples:
        >>> graph = ChannelGraph()
        >>> a, b = graph.new(2), graph.new(2)
        >>> graph.unite(a, b, 'added')
        >>> graph.resolve().tolist()
        [0, 1, 0, 1]
    """

    def __init__(self) -> None:
        self.size = 0
        self._edges: list[Tensor] = []
        self._frozen: list[tuple[Tensor, str]] = []
        # Roots as they were found last, and of how many edges.
        self._roots, self._joined = torch.arange(0), 0

    def new(self, count: int) -> Tensor:
        """Makes fresh nodes.

        Args:
            count (int): How many.

        Returns:
            Tensor: Their labels, int64 of shape ``[count]``.
        """
        labels = torch.arange(self.size, self.size + count)
        self.size += count
        return labels

    def unite(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Ties nodes pairwise; a node tied to no channel is frozen.

        Args:
            a (Tensor): Labels, shape ``[n]``.
            b (Tensor): Labels, shape ``[n]`` or broadcastable to it.
            reason (str): Why a node that meets ``NO_CHANNEL`` is frozen.
        """
        wide = max(a.numel(), b.numel())
        a, b = torch.broadcast_tensors(a, b)
        a, b = a.reshape(-1), b.reshape(-1)
        known = torch.minimum(a, b) != NO_CHANNEL
        if not known.all():
            # One end is a channel and the other is none: it meets a constant
            # and must stay. NO_CHANNEL is below all nodes, so the maximum is
            # the channel; of two that are none it is none.
            self.freeze(torch.maximum(a, b)[~known], reason)
            a, b = a[known], b[known]
        if a.numel() <= wide:
            self._edges.append(torch.stack([a, b]))
        else:
            # One number for a pair: sorting pairs is ten times slower.
            pairs = (a * BASE + b).unique()
            self._edges.append(torch.stack([pairs // BASE, pairs % BASE]))

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Marks nodes that must never be removed, with the reason."""
        labels = labels[labels != NO_CHANNEL]
        if labels.numel():
            self._frozen.append((labels.reshape(-1), reason))

    @property
    def state(self) -> tuple[int, ...]:
        """Numbers that change when nodes are made, tied or frozen."""
        return self.size, len(self._edges), len(self._frozen)

    def resolve(self) -> Tensor:
        """Returns for every node the smallest node it is connected with."""
        # Nodes and edges are only added: what was connected stays connected.
        root = torch.arange(self.size)
        root[: len(self._roots)] = self._roots
        if len(self._edges) > self._joined:
            root = self._join(root)
        self._roots, self._joined = root, len(self._edges)
        return root.clone()

    def _join(self, root: Tensor) -> Tensor:
        """Connects roots by all edges.

        Args:
            root (Tensor): Of every node, a smaller one that it is known to
                be connected with, or itself.
        """
        # [2, edges]. Every round hooks the roots of both ends of an edge under
        # the smaller of the two, for all edges at once, and then shortens the
        # chains. Roots only fall, so that it ends when a round changes
        # nothing; as trees join in every round, that is after about log(nodes)
        # rounds.
        a, b = torch.cat(self._edges, dim=1)
        while True:
            low = torch.minimum(root[a], root[b])
            # Several edges may hook one root: the smallest wins.
            hooked = root.scatter_reduce(0, root[a], low, 'amin')
            hooked = hooked.scatter_reduce(0, root[b], low, 'amin')
            hooked = _jump(hooked)
            if torch.equal(hooked, root):
                return root
            root = hooked

    def frozen_reasons(self, root: Tensor) -> dict[int, str]:
        """Maps every frozen component to the first reason given for it."""
        reasons: dict[int, str] = {}
        for labels, reason in self._frozen:
            for component in root[labels].unique().tolist():
                reasons.setdefault(component, reason)
        return reasons


def _jump(root: Tensor) -> Tensor:
    """Shortens chains until every node points at its root."""
    # A round halves a chain: [0, 0, 1, 2] -> [0, 0, 0, 1] -> [0, 0, 0, 0].
    while not torch.equal(root[root], root):
        root = root[root]
    return root
