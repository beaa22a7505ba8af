# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Channel groups: channels with the same members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .trace import Site


@dataclass(frozen=True)
class Member:
    """How one dimension of one tensor belongs to a group.

    Args:
        site (Site): The dimension.
        channels (Tensor): Channel of the group at every index of the
            dimension, -1 where another group or none owns the index.
            Shape ``[site.size]``.
    """

    site: Site
    channels: Tensor


@dataclass(frozen=True)
class ChannelGroup:
    """Channels with the same members; each is kept or removed everywhere.

    Args:
        name (str): Name of the first layer that emits them, with a number
            if several groups begin there.
        size (int): Number of channels.
        members (tuple[Member, ...]): Everything that shrinks with them.
        frozen (str, optional): Why no channel may be removed. Defaults to
            None: prunable.
        floor (int): Fewest channels without which the network would not run,
            or would branch otherwise; a unit may ask for more. Defaults to 0.
        block (int): Channels of every tensor that each of its channels
            stands for, such as the width of a head, or of the groups of a
            norm where these go as a whole. Defaults to 1.
        heads (bool): Whether its channels are heads of attention. Defaults
            to False.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    frozen: str | None = None
    floor: int = 0
    block: int = 1
    heads: bool = False

    @property
    def nodes(self) -> Tensor:
        """A node of each of its channels, ``[size]``."""
        # Every channel touches every member; where several indices of one are
        # the same channel, any of them stands for it.
        member, nodes = self.members[0], torch.full((self.size,), -1)
        mine = (member.channels >= 0).nonzero()[:, 0]
        nodes[member.channels[mine]] = mine + member.site.start
        return nodes

    def producers(self, sites: Iterable[Site]) -> list[Member]:
        """Returns the members whose site is among ``sites``."""
        wanted = set(sites)
        return [m for m in self.members if m.site in wanted]

    def indices_at(self, module: str) -> int:
        """How many indices of a module's widest dimension are its channels.

        More than :attr:`size` where several indices are one channel.

        Args:
            module (str): Name of a module.
        """
        own = [m.channels for m in self.members if m.site.module == module]
        return max((int((c >= 0).sum()) for c in own), default=0)


class FrozenChannels(NamedTuple):
    """Channels that no method may remove.

    Args:
        layer (str): The first layer that emits them.
        channels (int): How many.
        reason (str): Why.
    """

    layer: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Groups:
    """All channel groups of a network.

    Args:
        items (tuple[ChannelGroup, ...]): In order of the forward.
        node_channel (Tensor): For every node of the trace the global number
            of its channel, -1 if it belongs to no prunable group. Global
            numbers count the prunable groups' channels one after the other.
        node_group (Tensor): For every node the number of its prunable
            group, -1 for none.
    """

    items: tuple[ChannelGroup, ...]
    node_channel: Tensor
    node_group: Tensor

    def channels_at(self, nodes: Tensor) -> Tensor:
        """Returns the global channel of every node; -1 where there is none.

        Args:
            nodes (Tensor): Nodes of the trace, -1 for none; ``[size]``.
        """
        found = self.node_channel[nodes.clamp_min(0)]
        return torch.where(nodes >= 0, found, -1)

    @property
    def prunable(self) -> list[ChannelGroup]:
        """The groups that are not frozen, in order."""
        return [g for g in self.items if g.frozen is None]

    @property
    def sizes(self) -> dict[int, int]:
        """Channels of every prunable group, by their numbers."""
        return {k: group.size for k, group in enumerate(self.prunable)}

    @property
    def heads(self) -> dict[str, int]:
        """Width of the heads of every prunable group that has some."""
        return {g.name: g.block for g in self.prunable if g.heads}

    @property
    def frozen(self) -> list[FrozenChannels]:
        """What of every layer is left whole, and why; in order."""
        found: Counter[tuple[str, str]] = Counter()
        for group in self.items:
            if group.frozen is not None:
                # Its own name says nothing new.
                reason = group.frozen.removesuffix(f': {group.name}')
                found[group.name, reason] += group.indices_at(group.name)
        return [FrozenChannels(n, c, r) for (n, r), c in found.items()]
