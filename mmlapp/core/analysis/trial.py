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
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..compare import agree
from ..errors import PruningWarning
from ..groups import ChannelGroup, Groups, Member
from ..narrowing.narrow import narrow
from ..plan.layout import tensor_shapes
from ..plan.plan import ChannelPlan
from ..snapshot import exact, restored
from ..trace import running_modules, tensors_in
from ..units import Request, Unit
from .result import Analysis

GOLDEN = (5**0.5 - 1) / 2
CONTAINERS = nn.Sequential, nn.ModuleList, nn.ModuleDict
# How often a network is narrowed on trial before all suspects are frozen.
TRIALS = 200
REASON_ERROR = 'does not run with fewer of them'
REASON_TRAIN = f'{REASON_ERROR} in training'
REASON_OTHER = 'narrowed, the network would compute something else'


@dataclass
class FixedGate:
    """A gate that does not change, for parameters to ask for."""

    gate: Tensor
    active: bool = True


@dataclass
class Failure:
    """What went wrong with a narrowed network.

    Args:
        module (str): Innermost module that was running, empty if none.
        error (str): The exception; empty if only the outputs differ.
        train (bool): Whether it was in training mode. Defaults to False.
    """

    module: str = ''
    error: str = ''
    train: bool = False


def _differing(
    masked: Sequence[Sequence[Tensor]], narrowed: Sequence[Sequence[Tensor]]
) -> set[int]:
    """Numbers of the ways whose outputs are not the same."""
    pairs = enumerate(zip(masked, narrowed, strict=False))
    return {number for number, pair in pairs if not agree(*pair)}


def verify_groups(
    request: Request, unit: Unit, gather: Callable[[], Groups]
) -> Groups:
    """Narrows a network on trial and freezes what it cannot do without.

    Args:
        request (Request): The network; it is put back as it was. Its trace
            receives what is frozen.
        unit (Unit): What is removed.
        gather (Callable): Gathers the groups of the trace anew.

    Returns:
        Groups: With which the narrowed network runs and agrees.
    """
    trial = Trial(request, unit)
    # Each turn freezes at least one prunable group, so that this ends.
    while True:
        groups = gather()
        failure = trial.run(groups, groups.prunable)
        if failure is None:
            failure = trial.run(groups, groups.prunable, train=True)
        if failure is None:
            return groups
        for group, reason in trial.culprits(groups, failure):
            for member in group.members:
                nodes = torch.arange(member.site.size) + member.site.start
                request.record.graph.freeze(
                    nodes[member.channels >= 0], reason
                )


class Trial:
    """Runs a network without about half of the channels of some groups.

    Args:
        request (Request): The network, an example and its trace.
        unit (Unit): What is removed.
    """

    def __init__(self, request: Request, unit: Unit) -> None:
        self.model = request.model
        self.record, self.unit = request.record, unit
        self.left = TRIALS
        # How the whole network runs, the forward of the trace first.
        also = [way for way in request.also if self._runs(way)]
        self.ways = [request.forward, *also]

    def _analysis(self, groups: Groups) -> Analysis:
        """As it is without branches, which are added after the trial."""
        return Analysis(self.record, groups, {}, {}, self.unit, None)

    @cached_property
    def trains(self) -> bool:
        """Whether the whole network runs on the example in training mode."""
        return self._runs(self.ways[0], train=True)

    def _runs(self, way: Callable[[], Any], train: bool = False) -> bool:
        with restored(self.model):
            return self._outputs([way], train)[1] is None

    def run(
        self,
        groups: Groups,
        chosen: Sequence[ChannelGroup],
        compare: bool = True,
        train: bool = False,
    ) -> Failure | None:
        """Removes channels of the chosen groups; returns what went wrong.

        Args:
            groups (Groups): All groups.
            chosen (Sequence[ChannelGroup]): Which ones lose channels.
            compare (bool): Whether the outputs must be those of the masked
                network. Defaults to True.
            train (bool): Whether to run in training mode, where auxiliary
                heads wake up; outputs are not compared. Defaults to False.
        """
        if not chosen:
            return None
        self.left -= 1
        mask, plan = self._plan(groups, chosen)
        narrowed, failure = self._narrowed(plan, train)
        if train:
            return failure if failure and self.trains else None
        if failure is not None or not compare:
            return failure
        masked, failure = self._masked(mask, groups)
        if failure is not None or not _differing(masked, narrowed):
            return failure
        # Twice the same network: if even that differs, nothing can be said.
        again, _ = self._masked(mask, groups, seed=1)
        noisy = _differing(masked, again)
        if 0 in noisy:
            finite = all(bool(t.isfinite().all()) for t in masked[0])
            what = 'other outputs at every call' if finite else 'NaN or Inf'
            warnings.warn(
                f'the network gives {what}: whether it computes the same when '
                'it is narrowed cannot be checked',
                PruningWarning,
                stacklevel=2,
            )
        if noisy >= _differing(masked, narrowed):
            return None
        # Rounding may have done it; float64 tells.
        with exact(self.model):
            masked, failure = self._masked(mask, groups)
            narrowed, _ = self._narrowed(plan)
        if failure is None and noisy >= _differing(masked, narrowed):
            return None
        return Failure()

    def _narrowed(
        self, plan: ChannelPlan, train: bool = False
    ) -> tuple[list[list[Tensor]], Failure | None]:
        with restored(self.model):
            narrow(self.model, plan)
            # Further ways are tried as they are, the forward in both modes.
            return self._outputs(self.ways[:1] if train else self.ways, train)

    def _masked(
        self, mask: Tensor, groups: Groups, seed: int = 0
    ) -> tuple[list[list[Tensor]], Failure | None]:
        with restored(self.model):
            source = FixedGate(mask.float())
            self.unit.add_masks(self.model, source, self._analysis(groups))
            return self._outputs(self.ways, seed=seed)

    def _plan(
        self, groups: Groups, chosen: Sequence[ChannelGroup]
    ) -> tuple[Tensor, ChannelPlan]:
        generator = torch.Generator().manual_seed(0)
        names = {group.name for group in chosen}
        parts = []
        for number, group in enumerate(groups.prunable):
            # A quarter to three quarters, spread by the golden ratio: equal
            # widths would hide that code relies on them.
            # Of groups 0 1 2 3: 0.25, 0.56, 0.37, 0.68.
            share = 0.25 + 0.5 * (number * GOLDEN % 1)
            order = torch.randperm(group.size, generator=generator)
            part = torch.ones(group.size, dtype=torch.bool)
            if group.name in names:
                part[order[: max(1, round(share * group.size))]] = False
            parts.append(part)
        # Group by group is the global order, [channels].
        mask = torch.cat(parts)
        layout = replace(
            self.unit.layout(self.model, self._analysis(groups)),
            shapes=tensor_shapes(self.model),
        )
        device = next(self.model.parameters()).device
        return mask.to(device), layout.plan(mask, {}, {})

    def _outputs(
        self,
        ways: Sequence[Callable[[], Any]],
        train: bool = False,
        seed: int = 0,
    ) -> tuple[list[list[Tensor]], Failure | None]:
        """Outputs of each way, in one of the modes; ``restored`` ends that."""
        twins: dict[int, Tensor] = {}
        for module in self.model.modules():
            # The example may be too small for statistics of a batch.
            module.training = train and not isinstance(module, _NormBase)
            for name, value in module._buffers.items():
                if value is not None:  # may be changed in place
                    twin = twins.setdefault(id(value), value.clone())
                    module._buffers[name] = twin
        names = {module: name for name, module in self.model.named_modules()}
        with (
            torch.no_grad(),
            torch.random.fork_rng(self._devices()),
            running_modules(self.model) as stack,
        ):
            # What draws numbers of the same shapes gets the same ones.
            torch.manual_seed(seed)
            try:
                return [list(tensors_in(way())) for way in ways], None
            except Exception as error:
                text = str(error) or type(error).__name__
                name = names[stack[-1]] if stack else ''
                return [], Failure(name, text, train)

    def _devices(self) -> list[torch.device]:
        """Graphics cards on which random numbers may be drawn."""
        found = {p.device for p in self.model.parameters()}
        return [device for device in found if device.type == 'cuda']

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
        near = _below(groups.prunable, failure.module)
        if not self._fails(groups, near, failure):
            near = groups.prunable
        found = self._search(groups, near, failure)
        if not failure.error:
            return [(group, REASON_OTHER) for group in found]
        block = self._block(failure.module)
        name = 'the network'
        if block:
            name = type(self.model.get_submodule(block)).__name__
            found = self._alike(groups, found, block)
        reason = REASON_TRAIN if failure.train else REASON_ERROR
        return [(group, f'{name} {reason}') for group in found]

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
        failure: Failure,
    ) -> bool:
        """Whether some groups alone lead to a failure of the same kind."""
        again = self.run(groups, chosen, not failure.error, failure.train)
        return again is not None

    def _search(
        self,
        groups: Groups,
        suspects: Sequence[ChannelGroup],
        failure: Failure,
    ) -> list[ChannelGroup]:
        """Halves the suspects as long as one half fails alone."""
        # As a bisection, while one half is enough to make it fail.
        # A single suspect has middle 0 and is returned as it is.
        middle = len(suspects) // 2
        for half in (suspects[:middle], suspects[middle:]):
            if middle and self.left > 0 and self._fails(groups, half, failure):
                return self._search(groups, half, failure)
        return list(suspects)

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


def _members_below(group: ChannelGroup, name: str) -> list[Member]:
    prefix = f'{name}.' if name else ''
    return [m for m in group.members if m.site.name.startswith(prefix)]


def _below(groups: Sequence[ChannelGroup], name: str) -> list[ChannelGroup]:
    """Groups with a member in a module or below it."""
    return [group for group in groups if _members_below(group, name)]
