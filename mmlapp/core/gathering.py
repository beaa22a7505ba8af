# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Gathers channels that are tied, frozen and read alike into groups."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .errors import PruningError, PruningWarning
from .floors import least_counts, small_counts
from .groups import ChannelGroup, Groups, Member
from .patterns import matches
from .touched import Touched, alike, roots, touched_sites
from .trace import LayerCall, Site, Trace
from .trace.graph import BASE
from .trace.record import no_nodes

OUT_OF_SCOPE = 'outside the scope'
UNREAD = 'nothing that ran reads them'
SINGLE = 'a single channel'
PAIR = 'two channels, of which one alone would vanish or say nothing'
ALL = 'as many as the code of the network asks for'


class UnmatchedError(PruningError):
    """A pattern of the scope matches no layer that ran.

    Args:
        text (str): What is said of it.
        pattern (str): The pattern.
    """

    def __init__(self, text: str, pattern: str) -> None:
        self.pattern = pattern
        super().__init__(text)


class Gathering:
    """Gathers channels into groups by the set of sites that they touch.

    Args:
        trace (Trace): What one forward recorded. Channels may be tied and
            frozen, and floors may rise, between one time and the next.
        scope (Sequence[str]): Patterns of module names whose layers may be
            pruned; a name also covers everything below it. Defaults to all.
        ignore (Sequence[str]): Patterns of module names to leave alone.
            Defaults to none.
    """

    def __init__(
        self,
        trace: Trace,
        scope: Sequence[str] = ('*',),
        ignore: Sequence[str] = (),
    ) -> None:
        self.trace, self.scope, self.ignore = trace, scope, ignore
        # Of how much in the graph they were gathered, and what came out.
        self._state: tuple[int, ...] = ()
        self._items: list[ChannelGroup] = []
        self._position = self._owner = no_nodes()

    def groups(self) -> Groups:
        """Returns prunable and frozen groups, by the trace as it is now.

        Raises:
            UnmatchedError: If a pattern of ``scope`` matches no layer.
        """
        state = self.trace.graph.state
        # Floors alone take a tenth of the time.
        if state != self._state:
            self._gather()
            self._state = state
        items, owner = list(self._items), self._owner
        _raise_floors(self.trace, items, owner)
        _note_heads(self.trace, items, owner)
        return Groups(tuple(items), *_numbered(items, self._position, owner))

    def _gather(self) -> None:
        """Finds groups, as if each could be down to one channel."""
        trace = self.trace
        # Node -> smallest node that it is tied to, [nodes]. One number for
        # each connected component: a channel of the network.
        root = trace.graph.resolve()
        reasons = trace.graph.frozen_reasons(root)
        _freeze_by_name(trace, root, reasons, self.scope, self.ignore)
        emitted = _emitted(trace, root)
        _freeze_unread(trace, root, reasons, emitted)
        touched = touched_sites(trace, root)
        found = alike(touched, emitted, reasons)
        self._position, self._owner = _places(root, found)
        names: Counter[str] = Counter()
        self._items = []
        for number, components in enumerate(found):
            frozen = reasons.get(int(components[0]))
            item = self._item(number, components, touched, frozen)
            self._items.append(item if item.frozen else _rename(item, names))

    def _item(
        self,
        number: int,
        components: Tensor,
        touched: Touched,
        frozen: str | None,
    ) -> ChannelGroup:
        """A group of components, ``[size]``."""
        if frozen is None and len(components) == 1:
            frozen = SINGLE
        # Keys below the number of sites are sites, the others are dimensions
        # of calls, which only tell groups apart.
        met = [key // BASE for key in touched.keys(int(components[0]))]
        known = self.trace.sites
        sites = [known[k] for k in met if k < len(known)]
        members = tuple(
            _member(site, self._position, self._owner, number)
            for site in sites
        )
        name = next(s.module for s in sites if s in self.trace.producers)
        block = _block(members, len(components))
        return ChannelGroup(
            name, len(components), members, frozen, block=block
        )


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
        f'{argument}={pattern!r} matches no convolution or linear layer that '
        f'ran. Those lie below: {", ".join(roots)}'
    )
    if argument == 'scope':
        raise UnmatchedError(text, pattern)
    warnings.warn(text, PruningWarning, stacklevel=4)
