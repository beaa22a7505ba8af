# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A network on trial, narrowed, masked and whole, as it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..groups import ChannelGroup, Groups
from ..narrowing.check_plan import check_plan
from ..narrowing.narrow import apply_plan
from ..plan.layout import tensor_shapes
from ..plan.plan import ChannelPlan
from ..snapshot import Recast
from ..trace import Trace
from ..units import Request, Unit
from .checks import Check, compares_modes
from .counts import GOLDEN, Count, trial_mask
from .layers import Given, LookedAt, comparable_layers
from .living_rows import skip_zero_rows
from .result import Analysis
from .stages import WHOLE, Left, Outcome, Runner, Stage
from .ways import Way

# What else to do with a network as it is: with its outputs, and with what
# gives it another precision.
Then = Callable[[list[Tensor], Recast], None]


@dataclass
class FixedGate:
    """A gate that does not change, for parameters to ask for."""

    factor: Tensor
    active: bool = True


@dataclass(frozen=True)
class Removal:
    """What is removed.

    Args:
        mask (Tensor): Kept channels, bool in global order, ``[channels]``.
        plan (ChannelPlan): What that means for each tensor.
    """

    mask: Tensor
    plan: ChannelPlan


class Runs:
    """Runs a network narrowed, masked and whole, and puts it back.

    Args:
        request (Request): The network, an example and its trace.
        unit (Unit): What is removed.
    """

    def __init__(self, request: Request, unit: Unit) -> None:
        self.model, self.record = request.model, request.record
        self.unit, self.corner = unit, request.corner
        self.ways = [Way(request.forward, 'the example'), *request.also]
        self.runner = Runner(
            self.model, self.record.order, more=len(self.ways) > 1
        )
        self._layers = comparable_layers(self.model, self.record)
        self._groups: Groups | None = None
        self._whole: dict[tuple[int, bool, Stage], tuple[bool, bool]] = {}
        # Of the last mask, which a network has in several stages.
        self._looked_at: tuple[Tensor | None, LookedAt] = None, {}

    def removal(
        self,
        groups: Groups,
        chosen: Sequence[ChannelGroup],
        count: Count,
        kept: tuple[tuple[str, int], ...] = (),
    ) -> Removal:
        """Returns what is removed, made once for each count.

        Args:
            groups (Groups): All groups.
            chosen (Sequence[ChannelGroup]): Which ones lose channels.
            count (Count): How many of them are left.
            kept (tuple[tuple[str, int], ...]): How many of some are left all
                the same. Defaults to none.
        """
        if groups is not self._groups:
            # As it is without branches, which are added after the trial.
            found = Analysis(self.record, groups, {}, {}, self.unit, None)
            self._layout = replace(
                self.unit.layout(self.model, found),
                shapes=tensor_shapes(self.model),
            )
            self._groups, self._analysis = groups, found
            self.normalised = normalised_groups(self.record, groups)
            self._removals: dict[tuple[object, ...], Removal] = {}
        if count is Count.ALONE and not self.normalised:
            count = Count.ONE  # which is the same then
        names = frozenset(group.name for group in chosen)
        key = count, names, kept
        if key not in self._removals:
            floor = max(1, self.unit.floor)
            mask = trial_mask(
                groups, names, count, floor, self.normalised, dict(kept)
            )
            plan = self._layout.plan(mask, {}, {})
            if not self._removals:  # of all groups; others remove less
                check_plan(self.model, plan)
            device = next(self.model.parameters()).device
            self._removals[key] = Removal(mask.to(device), plan)
        return self._removals[key]

    def narrowed(
        self,
        removal: Removal,
        check: Check,
        stage: Stage,
        left: Left | None = None,
        then: Then | None = None,
    ) -> Outcome:
        """Runs the narrowed network.

        Args:
            removal (Removal): What is removed.
            check (Check): The way to run it.
            stage (Stage): What it computes with.
            left (Callable): Called when a module has run. Defaults to
                nothing.
            then (Callable): Called while it is narrow, if it runs, with its
                outputs. Defaults to nothing.
        """
        with self._computing(removal, check, stage) as recast:
            apply_plan(self.model, removal.plan, {})
            outcome = self.outputs(check, stage, left=left)
            if outcome[1] is None and then is not None:
                then(outcome[0], recast)
            return outcome

    def masked(
        self,
        removal: Removal,
        check: Check,
        stage: Stage,
        left: Left | None = None,
        seed: int = 0,
        shake: int = 0,
        then: Then | None = None,
    ) -> Outcome:
        """Runs the masked network; arguments as for the narrowed one.

        Args:
            removal (Removal): What is removed.
            check (Check): The way to run it.
            stage (Stage): What it computes with.
            left (Callable): Called when a module has run. Defaults to
                nothing.
            seed (int): Of random numbers that it draws. Defaults to 0.
            shake (int): Number of a change of the channels' scales that is
                as small as rounding. Defaults to 0, which is none.
            then (Callable): Called while it has masks, if it runs, with its
                outputs. Defaults to nothing.
        """
        with self._computing(removal, check, stage) as recast:
            # [channels] of 0 and 1.
            gate = removal.mask.to(stage.dtype or torch.float32)
            if shake:
                # Within eight steps of the last place, by the golden ratio.
                number = torch.arange(len(gate), dtype=torch.float64) + shake
                step = ((number * shake * GOLDEN) % 1 - 0.5).to(gate)
                gate = gate * (1 + 16 * torch.finfo(gate.dtype).eps * step)
            source = FixedGate(gate)
            self.unit.add_masks(self.model, source, self._analysis)
            skip_zero_rows(self.model)
            outcome = self.outputs(check, stage, left, seed, removal.mask)
            if outcome[1] is None and then is not None:
                then(outcome[0], recast)
            return outcome

    def whole(self, check: Check, stage: Stage) -> tuple[bool, bool]:
        """Whether the whole network runs, and gives finite numbers.

        Args:
            check (Check): The way to run it.
            stage (Stage): What it computes with.
        """
        # Whole: how many channels are left makes no difference.
        key = check.way, check.train, stage
        if key not in self._whole:
            alone = check.way > 0
            with self.runner.computing(stage, WHOLE, False, alone):
                found, failure = self.outputs(check, stage)
            self._whole[key] = failure is None, all_finite(found)
        return self._whole[key]

    def outputs(
        self,
        check: Check,
        stage: Stage,
        left: Left | None = None,
        seed: int = 0,
        mask: Tensor | None = None,
    ) -> Outcome:
        """Runs the network as it is now.

        Args:
            check (Check): The way to run it.
            stage (Stage): What it computes with.
            left (Callable): Called when a module has run. Defaults to
                nothing.
            seed (int): Of random numbers that it draws. Defaults to 0.
            mask (Tensor, optional): Kept channels, of the masked network.
                Defaults to none.

        Returns:
            tuple: Its outputs, where the example is compared what its layers
            give too, and what went wrong or None.
        """
        way = self.ways[check.way]
        train = check.train or way.train
        steady = compares_modes(check)
        measured = not check.way and (not check.train or steady)
        given = Given(self._kept(mask) if measured else {})
        found, failure = self.runner.outputs(
            way.run, stage, train, seed, left or given.left, steady
        )
        if found and measured:
            found.append(given.sizes())
        return found, failure

    def _kept(self, mask: Tensor | None) -> LookedAt:
        """Which channels of comparable layers to look at; None for all."""
        if mask is None:
            return dict.fromkeys(self._layers)
        if mask.is_meta:  # nothing has values that could be compared
            return {}
        if self._looked_at[0] is not mask:
            # [channels] and, last, what is no channel.
            kept = torch.cat([mask.cpu(), torch.ones(1, dtype=torch.bool)])
            found: LookedAt = {
                layer: kept[self._analysis.groups.channels_at(labels)]
                for layer, labels in self._layers.items()
            }
            self._looked_at = mask, found
        return self._looked_at[1]

    def _computing(
        self, removal: Removal, check: Check, stage: Stage
    ) -> AbstractContextManager[Recast]:
        # One channel alone would often be silenced by a rectifier.
        positive = check.count is not Count.SOME
        # A loss may change parameters in place; the example does not.
        return self.runner.computing(
            stage, removal.plan.slices, positive, alone=check.way > 0
        )


def normalised_groups(record: Trace, groups: Groups) -> set[str]:
    """Returns names of the prunable groups that some norm is computed over.

    Args:
        record (Trace): The trace of the network.
        groups (Groups): Its groups.
    """
    found = set()
    over = [
        *(living.ids for living in record.living_modules.values()),
        *(reduction.ids for reduction in record.reductions.values()),
    ]
    for ids in over:
        # Labels at the indices of its input, [size], -1 for none; node_group:
        # [labels] -> prunable group, -1 for none.
        found.update(groups.node_group[ids[ids >= 0]].unique().tolist())
    return {groups.prunable[number].name for number in found if number >= 0}


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no number is NaN or Inf.

    Args:
        tensors (Sequence[Tensor]): Outputs of a network.
    """
    return all(t.is_meta or bool(t.isfinite().all()) for t in tensors)
