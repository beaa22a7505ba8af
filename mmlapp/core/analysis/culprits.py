# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which groups a network on trial fails for, and what to say of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from torch import nn

from ..groups import ChannelGroup, Groups, Member
from ..trace import tensors_in
from .checks import Check
from .counts import Count
from .runs import all_finite
from .stages import Failure, Left
from .trial import Trial

CONTAINERS = nn.Sequential, nn.ModuleList, nn.ModuleDict
# How often a network is narrowed to find culprits before all suspects are
# frozen.
SEARCHES = 200
# Where one channel alone was not enough before.
TWO = 'two of them left'
# Shape and sum of magnitudes of a tensor.
Summary = tuple[tuple[int, ...], float]


class Culprit(NamedTuple):
    """A group that a network fails for.

    Args:
        group (ChannelGroup): The group.
        reason (str): Why it would be frozen.
        alone (bool): Whether the network does not run, or gives no numbers,
            with one of its channels left, where there may be two.
    """

    group: ChannelGroup
    reason: str
    alone: bool


class Search:
    """Finds what a network cannot do without.

    Args:
        trial (Trial): Runs it narrowed.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial, self.model = trial, trial.model
        self.left = SEARCHES

    def culprits(
        self, groups: Groups, check: Check, failure: Failure
    ) -> list[Culprit]:
        """Finds out which groups a failure is due to.

        Args:
            groups (Groups): All groups.
            check (Check): What failed.
            failure (Failure): Of all prunable groups together.

        Returns:
            list[Culprit]: Groups to freeze, or to leave two channels.
        """
        near = _below(groups.prunable, failure.module)
        if not self._fails(groups, near, check, failure):
            near = groups.prunable
        parts = self._search(groups, near, check, failure)
        block = self._block(failure.module) if failure.error else ''
        # Equal blocks of a network make one mistake: one of them tells why.
        known: dict[tuple[object, ...], tuple[str, bool]] = {}
        found = []
        for part in islice(parts, 1 if failure.error else None):
            first = part[0]
            lineage = self._lineage(first.members[0].site.module)
            kind = *lineage, first.floor
            if kind not in known:
                known[kind] = self._reason(groups, part, check, failure)
            reason, alone = known[kind]
            alike = self._alike(groups, part, block) if block else part
            found += [
                Culprit(group, reason, alone and group.floor < 2 < group.size)
                for group in alike
            ]
        return found

    def _reason(
        self,
        groups: Groups,
        found: list[ChannelGroup],
        check: Check,
        failure: Failure,
    ) -> tuple[str, bool]:
        """Why it fails for some groups, and whether for one channel alone."""
        count = self._count(groups, found, check, failure)
        stops = bool(failure.error) or self._breaks(groups, found, check)
        left = _left(count, found)
        if failure.error:
            name = self._name(self._block(failure.module))
            reason = f'{name} does not run with {left}'
        else:
            name = self._name(self._block(self._differs(groups, found, check)))
            reason = f'with {left}, {name} would compute something else'
        return reason + self._where(check), stops and count is not Count.SOME

    def _breaks(
        self, groups: Groups, chosen: Sequence[ChannelGroup], check: Check
    ) -> bool:
        """Whether what the narrowed network gives is no number."""
        trial = self.trial
        removal = trial.removal(groups, chosen, check.count, check.kept)
        outputs, _ = trial.narrowed(removal, check, trial.stage(check))
        return not all_finite(outputs)

    def _where(self, check: Check) -> str:
        """In which way or mode, unless it is the example itself."""
        if check.train:
            return ' in training'
        return f' in {self.trial.ways[check.way].name}' if check.way else ''

    def _count(
        self,
        groups: Groups,
        found: Sequence[ChannelGroup],
        check: Check,
        failure: Failure,
    ) -> Count:
        """With how many channels it fails, which others may have shown."""
        some = replace(check, count=Count.SOME)
        fails = some == check or self._fails(groups, found, some, failure)
        return Count.SOME if fails else check.count

    def _name(self, block: str) -> str:
        if not block:
            return 'the network'
        return type(self.model.get_submodule(block)).__name__

    def _differs(
        self, groups: Groups, chosen: Sequence[ChannelGroup], check: Check
    ) -> str:
        """The first module that does not do the same; empty if none."""
        trial = self.trial
        removal = trial.removal(groups, chosen, check.count, check.kept)
        stage = trial.stage(check)
        calls: list[list[_Call]] = [[], []]
        trial.masked(removal, check, stage, left=_noting(calls[0]))
        trial.narrowed(removal, check, stage, left=_noting(calls[1]))
        for first, second in zip(*calls, strict=False):
            if first.differs(second, stage.tolerance):
                name = trial.runner.names[first.module]
                # What gets something else does not make the difference.
                same = first.reads(second, stage.tolerance)
                return name if same else name.rpartition('.')[0]
        return ''

    def _block(self, name: str) -> str:
        """The innermost module that somebody wrote for a network.

        A layer of PyTorch fails for what it is given, and a container holds
        what somebody else calls.
        """
        while name:
            module = self.model.get_submodule(name)
            library = type(module).__module__.startswith('torch.nn.')
            if not library and not isinstance(module, CONTAINERS):
                break
            name = name.rpartition('.')[0]
        return name

    def _fails(
        self,
        groups: Groups,
        chosen: Sequence[ChannelGroup],
        check: Check,
        failure: Failure,
    ) -> bool:
        """Whether some groups alone lead to a failure of the same kind."""
        self.left -= 1
        compare = not failure.error
        return self.trial.run(groups, chosen, check, compare) is not None

    def _search(
        self,
        groups: Groups,
        suspects: Sequence[ChannelGroup],
        check: Check,
        failure: Failure,
    ) -> Iterator[list[ChannelGroup]]:
        """Halves the suspects as long as a half fails alone.

        Yields all that do, one after the other: what fails alone fails
        whatever else is frozen.
        """
        # A single suspect has middle 0 and is returned as it is.
        middle = len(suspects) // 2
        together = True
        for half in (suspects[:middle], suspects[middle:]):
            if (
                middle
                and self.left > 0
                and self._fails(groups, half, check, failure)
            ):
                together = False
                yield from self._search(groups, half, check, failure)
        if together:
            yield list(suspects)

    def _alike(
        self, groups: Groups, found: list[ChannelGroup], name: str
    ) -> list[ChannelGroup]:
        """Adds what plays the same part in other blocks of the class.

        The modules around must be of the same classes too: everybody uses
        small blocks such as a convolution with its norm.
        """
        kind = self._lineage(name)
        # Which tensors of the block the found groups touch, by their names in
        # the block; then the same tensors of every other block.
        parts = {
            (member.site.name.removeprefix(f'{name}.'), member.site.dim)
            for group in found
            for member in _members_below(group, name)
        }
        sites = {
            (f'{other}.{part}', dim)
            for other, _ in self.model.named_modules()
            if self._lineage(other) == kind
            for part, dim in parts
        }
        return [
            group
            for group in groups.prunable
            if group in found
            or any((m.site.name, m.site.dim) in sites for m in group.members)
        ]

    def _lineage(self, name: str) -> list[type]:
        """Classes of a module, of its parent and of the parent of that."""
        found = [type(self.model.get_submodule(name))]
        while name and len(found) < 3:
            name = name.rpartition('.')[0]
            found.append(type(self.model.get_submodule(name)))
        return found


def _left(count: Count, found: Sequence[ChannelGroup]) -> str:
    """How many channels were left, as a reason says it."""
    if count is not Count.SOME and any(group.floor > 1 for group in found):
        return TWO
    return count.value


def _members_below(group: ChannelGroup, name: str) -> list[Member]:
    prefix = f'{name}.' if name else ''
    return [m for m in group.members if m.site.name.startswith(prefix)]


def _below(groups: Sequence[ChannelGroup], name: str) -> list[ChannelGroup]:
    """Groups with a member in a module or below it."""
    return [group for group in groups if _members_below(group, name)]


class _Call:
    """What a module was given and gave, in short."""

    def __init__(self, module: nn.Module, args: Any, out: Any) -> None:
        self.module = module
        self.inputs, self.outputs = _summaries(args), _summaries(out)

    def differs(self, other: _Call, tolerance: float) -> bool:
        """Whether tensors of the same shape differ that went out."""
        return any(
            a[0] == b[0] and not _equal(a, b, tolerance)
            for a, b in zip(self.outputs, other.outputs, strict=False)
        )

    def reads(self, other: _Call, tolerance: float) -> bool:
        """Whether the same went in, but for channels that are zero."""
        pairs = zip(self.inputs, other.inputs, strict=False)
        return all(_equal(a, b, tolerance) for a, b in pairs)


def _summaries(value: Any) -> list[Summary]:
    return [
        (tuple(t.shape), float(t.double().abs().sum()))
        for t in tensors_in(value)
    ]


def _equal(first: Summary, second: Summary, tolerance: float) -> bool:
    # Not `>`: NaN is not equal.
    return abs(first[1] - second[1]) <= tolerance * abs(first[1])


def _noting(calls: list[_Call]) -> Left:
    def left(module: nn.Module, args: Any, out: Any) -> None:
        calls.append(_Call(module, args, out))

    return left
