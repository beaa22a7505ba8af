# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether a network runs when it is narrowed, and which groups hinder it.

A trace sees operators, not Python: a block may keep the number of its
channels in an attribute and use it as it was. What does not run, or computes
something else than its masked twin, is found here and left alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .bypass import Bypass
from .errors import PruningWarning
from .groups import ChannelGroup, Groups, Member
from .place import layout_of, place_masks
from .plan import ChannelPlan
from .shrink import shrink
from .snapshot import exact, restored
from .trace import Trace, running_modules, tensors_in

TOLERANCE = 1e-3
# How often a network is narrowed on trial before all suspects are frozen.
TRIALS = 200
REASON_ERROR = 'does not run with fewer of them'
REASON_OTHER = 'narrowed, the network would compute something else'


@dataclass
class FixedMask:
    """A mask that does not change, for parameters to ask for."""

    mask: Tensor
    total: int
    active: bool = True
    threshold: Tensor = field(default_factory=lambda: torch.zeros(1))

    def __post_init__(self) -> None:
        self.slope = torch.zeros(self.total + 1, device=self.mask.device)
        self.gate, self.group = self.slope, self.slope.long()


@dataclass
class Failure:
    """What went wrong with a narrowed network.

    Args:
        module (str): Innermost module that was running, empty if none.
        error (str): The exception; empty if only the outputs differ.
    """

    module: str = ''
    error: str = ''


def prove(
    model: nn.Module,
    forward: Callable[[], Any],
    record: Trace,
    find: Callable[[], Groups],
) -> Groups:
    """Narrows a network on trial and freezes what it cannot do without.

    Args:
        model (nn.Module): The network; it is put back as it was.
        forward (Callable): Runs it on an example.
        record (Trace): Its trace; receives what is frozen.
        find (Callable): Gathers the groups of the trace anew.

    Returns:
        Groups: With which the narrowed network runs and agrees.
    """
    trial = Trial(model, forward, record)
    while True:
        groups = find()
        failure = trial.run(groups, groups.prunable)
        if failure is None:
            return groups
        for group, reason in trial.culprits(groups, failure):
            for member in group.members:
                nodes = torch.arange(member.site.size) + member.site.start
                record.graph.freeze(nodes[member.channels >= 0], reason)


class Trial:
    """Runs a network narrowed by half of some groups.

    Args:
        model (nn.Module): The network.
        forward (Callable): Runs it on an example.
        record (Trace): Its trace.
    """

    def __init__(
        self, model: nn.Module, forward: Callable[[], Any], record: Trace
    ) -> None:
        self.model, self.forward, self.record = model, forward, record
        self.left = TRIALS

    def run(
        self,
        groups: Groups,
        chosen: Sequence[ChannelGroup],
        compare: bool = True,
    ) -> Failure | None:
        """Removes half of the chosen groups; returns what went wrong.

        Args:
            groups (Groups): All groups.
            chosen (Sequence[ChannelGroup]): Which ones lose channels.
            compare (bool): Whether the outputs must be those of the masked
                network. Defaults to True.
        """
        if not chosen:
            return None
        self.left -= 1
        mask, plan = self._plan(groups, chosen)
        narrowed, failure = self._narrowed(plan)
        if failure is not None or not compare:
            return failure
        masked, failure = self._masked(mask, groups)
        if failure is not None or agree(masked, narrowed):
            return failure
        again, _ = self._masked(mask, groups)
        if not agree(masked, again):
            warnings.warn(
                'the network gives other outputs at every call: whether it '
                'computes the same when it is narrowed cannot be checked',
                PruningWarning,
                stacklevel=2,
            )
            return None
        with exact(self.model):
            masked, failure = self._masked(mask, groups)
            narrowed, _ = self._narrowed(plan)
        if failure is None and agree(masked, narrowed):
            return None
        return Failure()

    def _narrowed(
        self, plan: ChannelPlan
    ) -> tuple[list[Tensor], Failure | None]:
        with restored(self.model):
            shrink(self.model, plan)
            return self._outputs()

    def _masked(
        self, mask: Tensor, groups: Groups
    ) -> tuple[list[Tensor], Failure | None]:
        with restored(self.model):
            source = FixedMask(mask, len(mask) - 1)
            place_masks(self.model, source, self.record, groups)
            return self._outputs()

    def _plan(
        self, groups: Groups, chosen: Sequence[ChannelGroup]
    ) -> tuple[Tensor, ChannelPlan]:
        generator = torch.Generator().manual_seed(0)
        names = {group.name for group in chosen}
        parts = []
        for group in groups.prunable:
            part = torch.ones(group.size, dtype=torch.bool)
            if group.name in names:
                order = torch.randperm(group.size, generator=generator)
                part[order[: group.size // 2]] = False
            parts.append(part)
        mask = torch.cat([*parts, torch.ones(1, dtype=torch.bool)])
        layout = layout_of(self.model, self.record, groups, Bypass())
        device = next(self.model.parameters()).device
        return mask.to(device), layout.plan(mask, {}, {})

    def _outputs(self) -> tuple[list[Tensor], Failure | None]:
        """Runs the network in evaluation mode; ``restored`` ends that."""
        for module in self.model.modules():
            module.training = False
        names = {module: name for name, module in self.model.named_modules()}
        with torch.no_grad(), running_modules(self.model) as stack:
            try:
                return list(tensors_in(self.forward())), None
            except Exception as error:
                text = str(error) or type(error).__name__
                return [], Failure(names[stack[-1]] if stack else '', text)

    def culprits(
        self, groups: Groups, failure: Failure
    ) -> list[tuple[ChannelGroup, str]]:
        """Finds out which groups a failure is due to.

        Args:
            groups (Groups): All groups.
            failure (Failure): Of all prunable groups together.

        Returns:
            list[tuple[ChannelGroup, str]]: Groups to freeze, and why.
        """
        compare = not failure.error
        near = _below(groups.prunable, failure.module)
        if not self.run(groups, near, compare):
            near = groups.prunable
        found = self._search(groups, near, compare)
        if compare:
            return [(group, REASON_OTHER) for group in found]
        name = 'the network'
        if failure.module:
            name = type(self.model.get_submodule(failure.module)).__name__
            found = self._alike(groups, found, failure.module)
        return [(group, f'{name} {REASON_ERROR}') for group in found]

    def _search(
        self, groups: Groups, suspects: Sequence[ChannelGroup], compare: bool
    ) -> list[ChannelGroup]:
        """Halves the suspects as long as one half fails alone."""
        middle = len(suspects) // 2
        for half in (suspects[:middle], suspects[middle:]):
            if middle and self.left > 0 and self.run(groups, half, compare):
                return self._search(groups, half, compare)
        return list(suspects)

    def _alike(
        self, groups: Groups, found: list[ChannelGroup], name: str
    ) -> list[ChannelGroup]:
        """Adds what plays the same part in other blocks of the class."""
        kind = type(self.model.get_submodule(name))
        parts = {
            (member.site.name.removeprefix(f'{name}.'), member.site.dim)
            for group in found
            for member in _members_below(group, name)
        }
        sites = {
            (f'{other}.{part}', dim)
            for other, module in self.model.named_modules()
            if type(module) is kind
            for part, dim in parts
        }
        return [
            group
            for group in groups.prunable
            if group in found
            or any((m.site.name, m.site.dim) in sites for m in group.members)
        ]


def _members_below(group: ChannelGroup, name: str) -> list[Member]:
    prefix = f'{name}.' if name else ''
    return [m for m in group.members if m.site.name.startswith(prefix)]


def _below(groups: Sequence[ChannelGroup], name: str) -> list[ChannelGroup]:
    """Groups with a member in a module or below it."""
    return [group for group in groups if _members_below(group, name)]


def agree(expected: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
    """Whether two lists of outputs are equal but for rounding.

    Args:
        expected (Sequence[Tensor]): Outputs of one network.
        found (Sequence[Tensor]): Outputs of another one.
    """
    if [t.shape for t in expected] != [t.shape for t in found]:
        return False
    for a, b in zip(expected, found, strict=True):
        if a.numel() and a.device.type != 'meta':  # which has no values
            scale = TOLERANCE * a.double().abs().max()
            if not (a.double() - b.double()).abs().max() <= scale:
                return False
    return True
