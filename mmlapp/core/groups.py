# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Channel groups: channels with the same members."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import PruningError, PruningWarning
from .floors import least_counts, small_counts
from .patterns import matches
from .touched import alike, roots, touched_sites
from .trace import LayerCall, Site, Trace
from .trace.graph import BASE
from .trace.record import no_nodes

OUT_OF_SCOPE = 'outside the scope'
UNREAD = 'nothing that ran reads them'
SINGLE = 'a single channel'
PAIR = 'two channels, of which one alone would vanish or say nothing'
ALL = 'as many as the code of the network asks for'


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


def find_groups(
    trace: Trace,
    scope: Sequence[str] = ('*',),
    ignore: Sequence[str] = (),
) -> Groups:
    """Gathers channels into groups by the set of sites that they touch.

    Args:
        trace (Trace): What one forward recorded.
        scope (Sequence[str]): Patterns of module names whose layers may be
            pruned; a name also covers everything below it. Defaults to all.
        ignore (Sequence[str]): Patterns of module names to leave alone.
            Defaults to none.

    Returns:
        Groups: Prunable and frozen groups.

    Raises:
        PruningError: If a pattern of ``scope`` matches no layer.
    """
    # Node -> smallest node that it is tied to, [nodes]. One number for each
    # connected component: a channel of the network.
    root = trace.graph.resolve()
    reasons = trace.graph.frozen_reasons(root)
    _freeze_by_name(trace, root, reasons, scope, ignore)
    emitted = _emitted(trace, root)
    _freeze_unread(trace, root, reasons, emitted)
    touched = touched_sites(trace, root)
    found = alike(touched, emitted, reasons)
    position, owner = _places(root, found)
    items: list[ChannelGroup] = []
    names: Counter[str] = Counter()
    for number, components in enumerate(found):
        first = int(components[0])
        frozen = reasons.get(first)
        if frozen is None and len(components) == 1:
            frozen = SINGLE
        # Keys below the number of sites are sites, the others are dimensions
        # of calls, which only tell groups apart.
        met = [key // BASE for key in touched.keys(first)]
        sites = [trace.sites[k] for k in met if k < len(trace.sites)]
        members = tuple(_member(s, position, owner, number) for s in sites)
        name = next(s.module for s in sites if s in trace.producers)
        block = _block(members, len(components))
        item = ChannelGroup(
            name, len(components), members, frozen, block=block
        )
        items.append(item if frozen else _rename(item, names))
    _raise_floors(trace, items, owner)
    _note_heads(trace, items, owner)
    return Groups(tuple(items), *_numbered(items, position, owner))


def _places(root: Tensor, found: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Place in its group, and number of its group, of every node.

    Args:
        root (Tensor): Component of every node, ``[nodes]``.
        found (Sequence[Tensor]): Components of every group, in order.

    Returns:
        tuple[Tensor, Tensor]: Both ``[nodes]``, -1 for nodes of no group.
    """
    # First by component, that is by the node that names it, then by node.
    position, owner = torch.full_like(root, -1), torch.full_like(root, -1)
    for number, components in enumerate(found):
        position[components] = torch.arange(len(components))
        owner[components] = number
    return position[root], owner[root]


def _freeze_unread(
    trace: Trace, root: Tensor, reasons: dict[int, str], emitted: Tensor
) -> None:
    """Leaves alone what nothing reads in any way that was followed.

    Code that chooses by values, such as the size of a box, may read it on
    other images, and expect its full width.
    """
    read = torch.zeros(len(root), dtype=torch.bool)  # by component
    for ids in read_by(trace):
        read[roots(root, ids)] = True
    for component in emitted[~read[emitted]].tolist():
        reasons.setdefault(component, UNREAD)


def read_by(trace: Trace) -> Iterator[Tensor]:
    """Labels of all that is read in some way that was followed.

    Args:
        trace (Trace): What the forwards recorded.
    """
    for call in (*trace.calls, *trace.further_calls):
        yield from _inputs(call)
    yield from trace.summed


def _inputs(call: LayerCall) -> Iterator[Tensor]:
    """Labels of all that a call reads, but for the outputs of its weight."""
    for name, ids in call.dims.items():
        if name != 'out':
            yield ids
    if call.pairs is not None:
        yield call.pairs[0]


def _raise_floors(
    trace: Trace, items: list[ChannelGroup], owner: Tensor
) -> None:
    """Keeps what would not run with fewer, or would compute otherwise."""
    # Frozen ones stay.
    sizes = {k: g.size for k, g in enumerate(items) if g.frozen is None}
    wanted = [
        *(least_counts(*lasting, owner, sizes) for lasting in trace.lasting),
        *small_counts(trace, owner, sizes),
    ]
    for counts in wanted:
        for number, count in counts.items():
            items[number] = _raised(items[number], count)


def _raised(group: ChannelGroup, floor: int) -> ChannelGroup:
    """The group with a floor, of which nothing is left if it keeps all."""
    if floor >= group.size:
        reason = PAIR if floor == 2 else ALL
        return replace(group, floor=floor, frozen=reason)
    return replace(group, floor=max(group.floor, floor))


def _note_heads(
    trace: Trace, items: list[ChannelGroup], owner: Tensor
) -> None:
    """Tells how wide the heads of a group are."""
    for nodes in trace.heads:
        for number in owner[nodes[:, 0]].unique().tolist():
            if number >= 0:
                block = nodes.shape[1]
                found = replace(items[number], block=block, heads=block > 1)
                items[number] = found


def _block(members: Sequence[Member], size: int) -> int:
    """How many indices of every tensor each channel is, or a part of that.

    Four where a norm of groups of four loses these as a whole; one where a
    flattened image is read at four indices for each channel that is emitted.
    """
    # A channel touches each dimension as often as every other one.
    counts = [
        int((member.channels >= 0).sum()) // size
        for member in members
        if not member.site.attribute
    ]
    return math.gcd(*counts)


def _numbered(
    items: Sequence[ChannelGroup], position: Tensor, owner: Tensor
) -> tuple[Tensor, Tensor]:
    """Channel and group of every node, counting what is prunable alone."""
    # Global numbers run through the prunable groups: group k holds the
    # channels starts[k] .. starts[k] + size - 1 and has the rank ranks[k].
    # Sizes 4, 2 (frozen) and 3: starts [0, 4, 4] and ranks [0, -1, 1].
    starts, ranks, total, rank = [], [], 0, 0
    for item in items:
        prunable = item.frozen is None
        starts.append(total)
        ranks.append(rank if prunable else -1)
        total += item.size * prunable
        rank += prunable
    # The last entries are those of nodes without a group, -1.
    group = torch.tensor([*ranks, -1])[owner]
    channel = torch.tensor([*starts, 0])[owner] + position
    return torch.where(group < 0, -1, channel), group


def _member(
    site: Site, position: Tensor, owner: Tensor, number: int
) -> Member:
    """Which channels of a group a site holds."""
    # The nodes of a site follow each other.
    span = slice(site.start, site.start + site.size)
    # Owners [0, 1, 0], positions [0, 0, 1]: of group 0 it holds [0, -1, 1].
    return Member(site, torch.where(owner[span] == number, position[span], -1))


def _rename(group: ChannelGroup, names: Counter[str]) -> ChannelGroup:
    """Tells groups that begin at the same layer apart."""
    names[group.name] += 1
    number = names[group.name]
    if number == 1:
        return group
    return replace(group, name=f'{group.name}#{number}')


def _emitted(trace: Trace, root: Tensor) -> Tensor:
    """Components that a layer emits, in order of the forward, ``[size]``."""
    spans = [
        root[site.start : site.start + site.size]
        for site in trace.sites
        if site in trace.producers
    ]
    # Each once: a dictionary keeps the order.
    every = torch.cat([no_nodes(), *spans]).tolist()
    return torch.tensor(list(dict.fromkeys(every)), dtype=torch.int64)


def _freeze_by_name(
    trace: Trace,
    root: Tensor,
    reasons: dict[int, str],
    scope: Sequence[str],
    ignore: Sequence[str],
) -> None:
    """Freezes what a layer outside the scope or an ignored one emits."""
    layers = [s for s in trace.sites if s in trace.producers]
    names = [s.module for s in layers]
    for argument, patterns in (('scope', scope), ('ignore', ignore)):
        for pattern in patterns:
            if not any(matches(name, (pattern,)) for name in names):
                _no_match(argument, pattern, names)
    for site in layers:
        inside = matches(site.module, scope)
        if inside and not matches(site.module, ignore):
            continue
        reason = OUT_OF_SCOPE if not inside else 'ignored by the user'
        for c in root[site.start : site.start + site.size].unique().tolist():
            reasons.setdefault(c, f'{reason}: {site.module}')


def _no_match(argument: str, pattern: str, names: Sequence[str]) -> None:
    if not names:
        raise PruningError(
            'the network has no convolution or linear layer that emits more '
            'than one channel'
        )
    roots = sorted({name.partition('.')[0] for name in names})
    text = (
        f'{argument}={pattern!r} matches no convolution or linear layer. '
        f'Layers lie below: {", ".join(roots)}'
    )
    if argument == 'scope':
        raise PruningError(text)
    warnings.warn(text, PruningWarning, stacklevel=4)
