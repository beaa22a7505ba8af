# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether a network runs when it is narrowed, and computes the same.

A trace sees operators, not Python: a block may keep the number of its
channels in an attribute and use it as it was. What does not run, or computes
something else than its masked twin, is found here and left alone.

Two numbers of channels are tried: a prime one, another for every group, and
one of every group. The network gets fixed random values in which no gate is
near zero, computes in float64, and must agree with its masked twin but for
rounding: the verdict does not depend on the weights that the user happens to
have. Large images take long: where nothing else tells their size they are cut
to a corner, if the same modules run on it, else float32 comes first. A
network that cannot do all this is tried as closely to it as it can, see
:data:`STAGES`. In training mode, where other heads may wake up, it is compared
if it does something else than in evaluation and draws no lots; else, and in
ways whose outputs cannot be compared, such as a loss, it only has to run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from ..compare import ROUGH_TOLERANCE, agree, relative_errors
from ..errors import PruningWarning
from ..groups import ChannelGroup, Groups
from ..narrowing.check_plan import check_plan
from ..narrowing.narrow import apply_plan
from ..plan.layout import tensor_shapes
from ..plan.plan import ChannelPlan
from ..snapshot import Recast
from ..trace import Trace
from ..units import Request, Unit
from .counts import GOLDEN, Count, trial_mask
from .result import Analysis
from .stages import (
    EXACT,
    STAGES,
    WHOLE,
    Failure,
    Left,
    Outcome,
    Runner,
    Stage,
)
from .ways import Way

# How often rounding is tried to make a difference, and how much larger than
# what it makes then a difference may be that is due to it.
SHAKES, AMPLE = 4, 16
ROUNDED = 'where nothing but rounding differs'


@dataclass
class FixedGate:
    """A gate that does not change, for parameters to ask for."""

    factor: Tensor
    active: bool = True


@dataclass(frozen=True)
class Check:
    """What is tried.

    Args:
        count (Count): How many channels of each group are left. Defaults to
            some.
        way (int): Which way to run the network; 0 is that of the trace.
            Defaults to 0.
        train (bool): Whether in training mode, in which it only has to run.
            Defaults to False.
    """

    count: Count = Count.SOME
    way: int = 0
    train: bool = False


@dataclass(frozen=True)
class Removal:
    """What is removed.

    Args:
        mask (Tensor): Kept channels, bool in global order, ``[channels]``.
        plan (ChannelPlan): What that means for each tensor.
    """

    mask: Tensor
    plan: ChannelPlan


class Trial:
    """Runs a network without some channels of some groups.

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
        # Number of the stage of each check, once it is known.
        self._settled: dict[Check, int] = {}
        self._whole: dict[tuple[int, bool, Stage], tuple[bool, bool]] = {}
        # Ways that return no tensor: there is nothing to compare.
        self._silent: set[int] = set()
        # Largest relative change of every output that rounding alone makes.
        self._rounding: dict[tuple[Check, Stage], list[float]] = {}
        self._groups: Groups | None = None
        # What it was last seen to run without, where it only has to run.
        self._ran: dict[Check, Removal] = {}
        # Without what training was last seen to run, at which stage, and what
        # it returned; None if the same as evaluation.
        self._trained: tuple[Removal, Stage, list[Tensor] | None] | None
        self._trained = None
        self.checks = list(_checks(self.ways))

    def run(
        self,
        groups: Groups,
        chosen: Sequence[ChannelGroup],
        check: Check,
        compare: bool = True,
    ) -> Failure | None:
        """Removes channels of the chosen groups; returns what went wrong.

        Args:
            groups (Groups): All groups.
            chosen (Sequence[ChannelGroup]): Which ones lose channels.
            check (Check): What is tried.
            compare (bool): Whether the outputs must be those of the masked
                network. Defaults to True.
        """
        if not chosen:
            return None
        removal = self.removal(groups, chosen, check.count)
        # What else has to run without all of them; not without some alone.
        complete = len(chosen) == len(groups.prunable)
        beside = self._beside(removal, check) if complete else []
        if self._only_runs(check):
            failure = self._running(removal, check, beside)
            if failure is None and compare and _compares_modes(check):
                failure = self._in_training(removal, check)
            return failure
        masked = self._settle(removal, check)
        stage = STAGES[self._settled[check]]
        narrowed, failure = self.narrowed(removal, check, stage, beside)
        if failure is not None and check.way:
            # In what way the whole network does not run, no part has to.
            whole = self._runs(Check(way=check.way), STAGES[-1])
            return failure if whole else None
        if failure is not None or not compare or check.way in self._silent:
            return failure
        if masked is None:
            masked, failure = self.masked(removal, check, stage)
        if failure is not None or agree(masked, narrowed, stage.tolerance):
            return failure
        return self._difference(masked, narrowed, removal, check)

    def _in_training(self, removal: Removal, check: Check) -> Failure | None:
        """Compares training, where it does something else than evaluation."""
        if self._ran.get(check) is not removal:
            return None  # it does not run, with masks either
        seen, at, narrowed = self._trained or (None, None, None)
        if seen is removal and narrowed is None:
            return None
        masked = self._settle(removal, check)
        stage = self.stage(check)
        if masked is None:
            masked, failure = self.masked(removal, check, stage)
            if failure is not None:
                return None  # nor is that due to narrowing
        if seen is not removal or at is not stage or narrowed is None:
            narrowed, failure = self.narrowed(removal, check, stage)
            if failure is not None:
                return failure
        if agree(masked, narrowed, stage.tolerance):
            return None
        return self._difference(masked, narrowed, removal, check)

    def _difference(
        self,
        masked: list[Tensor],
        narrowed: list[Tensor],
        removal: Removal,
        check: Check,
    ) -> Failure | None:
        """Whether a difference of outputs tells something."""
        stage = self.stage(check)
        # Twice the same network: if even that differs, nothing can be said.
        again, _ = self.masked(removal, check, stage, seed=1)
        if not agree(masked, again, stage.tolerance):
            return self._unlike_itself(masked, check)
        if stage.screen:
            return self._look_again(masked, narrowed, removal, check)
        if agree(masked, narrowed) and self.runner.is_rough(
            self.ways[check.way].run, stage
        ):
            return None
        tolerance = stage.tolerance
        return self._unless_rounded(
            masked, narrowed, removal, check, stage, tolerance
        )

    def _unless_rounded(
        self,
        masked: list[Tensor],
        narrowed: list[Tensor],
        removal: Removal,
        check: Check,
        stage: Stage,
        tolerance: float,
    ) -> Failure | None:
        """A failure, unless rounding alone makes such a difference.

        A network may make rounding larger, as one that divides by small
        numbers does. What chooses among equal values, such as local maxima
        of features that were made larger, even chooses by it.
        """
        errors = relative_errors(masked, narrowed)
        if errors is None:
            return Failure()
        rounding = self._rounding_of(masked, removal, check, stage)
        largest = 0.0
        for error, by_chance in zip(errors, rounding, strict=True):
            if error <= tolerance:
                continue
            # Not `>`: NaN is not equal.
            if not error <= AMPLE * by_chance:
                return Failure()
            largest = max(largest, error)
        if largest <= ROUGH_TOLERANCE:
            return None
        return self._unlike_itself(masked, check, ROUNDED)

    def _rounding_of(
        self,
        masked: list[Tensor],
        removal: Removal,
        check: Check,
        stage: Stage,
    ) -> list[float]:
        """Largest relative change of every output by rounding."""
        key = check, stage
        if key not in self._rounding:
            runs = [
                relative_errors(
                    masked,
                    self.masked(removal, check, stage, shake=shake)[0],
                )
                for shake in range(1, SHAKES + 1)
            ]
            # Of other shapes: as many as values choose.
            count = len(relative_errors(masked, masked) or [])
            self._rounding[key] = [
                max(errors)
                for errors in zip(
                    *(run or [math.inf] * count for run in runs),
                    strict=True,
                )
            ]
        return self._rounding[key]

    def _look_again(
        self,
        masked: list[Tensor],
        narrowed: list[Tensor],
        removal: Removal,
        check: Check,
    ) -> Failure | None:
        """Tells rounding of float32 from a difference, if float64 runs."""
        stage, tolerance = self.stage(check), ROUGH_TOLERANCE
        exact, failure = self.masked(removal, check, EXACT)
        if failure is None and _finite(exact):
            masked, stage, tolerance = exact, EXACT, EXACT.tolerance
            narrowed, _ = self.narrowed(removal, check, EXACT)
        if agree(masked, narrowed, tolerance):
            return None
        return self._unless_rounded(
            masked, narrowed, removal, check, stage, tolerance
        )

    def _unlike_itself(
        self, masked: list[Tensor], check: Check, when: str = 'at every call'
    ) -> Failure | None:
        finite = _finite(masked)
        if not finite and self._dense(check, self.stage(check))[1]:
            return Failure()  # because of the masks
        if check.way == 0 and not check.train:
            what = f'other outputs {when}' if finite else 'NaN or Inf'
            warnings.warn(
                f'the network gives {what}: whether it computes the same when '
                'it is narrowed cannot be checked',
                PruningWarning,
                stacklevel=2,
            )
        return None

    def stage(self, check: Check) -> Stage:
        """Returns what the network computes with in a check that has run."""
        return STAGES[self._settled[check]]

    def removal(
        self, groups: Groups, chosen: Sequence[ChannelGroup], count: Count
    ) -> Removal:
        """Returns what is removed, made once for each count.

        Args:
            groups (Groups): All groups.
            chosen (Sequence[ChannelGroup]): Which ones lose channels.
            count (Count): How many of them are left.
        """
        if groups is not self._groups:
            # As it is without branches, which are added after the trial.
            found = Analysis(self.record, groups, {}, {}, self.unit, None)
            self._layout = replace(
                self.unit.layout(self.model, found),
                shapes=tensor_shapes(self.model),
            )
            self._groups, self._analysis = groups, found
            self._normalised = _normalised(self.record, groups)
            self._removals: dict[tuple[object, ...], Removal] = {}
        if count is Count.ALONE and not self._normalised:
            count = Count.ONE  # which is the same then
        names = frozenset(group.name for group in chosen)
        if (count, names) not in self._removals:
            floor = max(1, self.unit.floor)
            mask = trial_mask(groups, names, count, floor, self._normalised)
            plan = self._layout.plan(mask, {}, {})
            if not self._removals:  # of all groups; others remove less
                check_plan(self.model, plan)
            device = next(self.model.parameters()).device
            self._removals[count, names] = Removal(mask.to(device), plan)
        return self._removals[count, names]

    def _settle(self, removal: Removal, check: Check) -> list[Tensor] | None:
        """Finds the stage of a check; returns the outputs by the way."""
        if check in self._settled:
            return None
        some = replace(check, count=Count.SOME)
        if check.way in self._silent and some in self._settled:
            self._settled[check] = self._settled[some]
            return []
        for number in self._stages(check):
            masked, failure = self.masked(removal, check, STAGES[number])
            if failure is None and _finite(masked):
                self._settled[check] = number
                if not masked:
                    self._silent.add(check.way)
                return masked
        # The masks may be what it does not run with.
        numbers = self._stages(check)
        runs = (n for n in numbers if self._runs(check, STAGES[n]))
        self._settled[check] = next(runs, len(STAGES) - 1)
        return None

    def _stages(self, check: Check) -> Iterator[int]:
        """Numbers of the stages to try, from one that it is known to need."""
        same = [n for c, n in self._settled.items() if c.way == check.way]
        loose = not self.ways[check.way].compare
        for number in range(max(same, default=0), len(STAGES)):
            stage = STAGES[number]
            # What goes with the images may tell where things are in them.
            apart = stage.corner and (check.way or not self.corner)
            # Small ones are nearly as fast in float64. The corner tells.
            large = self.runner.corner.large or not self.corner
            fast = stage.screen and (loose or not large)
            # Some operators of losses and predictions do not know it.
            exact = loose and stage.dtype is torch.float64
            if not (apart or fast or exact):
                yield number

    def _only_runs(self, check: Check) -> bool:
        """Whether the outputs of a check are not compared."""
        return check.train or not self.ways[check.way].compare

    def _running(
        self, removal: Removal, check: Check, beside: Sequence[Check]
    ) -> Failure | None:
        """Runs the narrowed network where the masked one runs."""
        if self._ran.get(check) is removal:
            return None
        # It need not run at all where a loss is how the network is trained.
        tries = 1 if check.train and _has_loss(self.ways) else None
        for number in islice(self._stages(check), tries):
            stage = STAGES[number]
            _, failure = self.narrowed(removal, check, stage, beside)
            if failure is None:
                self._ran[check] = removal
                return None
            # What the masked one does not run with is not due to narrowing.
            if self.masked(removal, check, stage)[1] is None:
                return failure
        return None

    def _runs(self, check: Check, stage: Stage) -> bool:
        """Whether the whole network runs."""
        return self._dense(check, stage)[0]

    def _dense(self, check: Check, stage: Stage) -> tuple[bool, bool]:
        """Whether the whole network runs, and gives finite numbers."""
        key = check.way, check.train, stage
        if key not in self._whole:
            alone = check.way > 0
            with self.runner.computing(stage, WHOLE, False, alone):
                found, failure = self._outputs(check, stage)
            self._whole[key] = failure is None, _finite(found)
        return self._whole[key]

    def narrowed(
        self,
        removal: Removal,
        check: Check,
        stage: Stage,
        beside: Sequence[Check] = (),
        left: Left | None = None,
    ) -> Outcome:
        """Runs the narrowed network.

        Args:
            removal (Removal): What is removed.
            check (Check): The way to run it.
            stage (Stage): What it computes with.
            beside (Sequence[Check]): What has to run as well, if it runs.
                Defaults to nothing.
            left (Callable): Called when a module has run. Defaults to
                nothing.
        """
        with self._computing(removal, check, stage) as recast:
            apply_plan(self.model, removal.plan, {})
            outcome = self._outputs(check, stage, left=left)
            if outcome[1] is None:
                self._run_beside(
                    removal, check, stage, beside, recast, outcome[0]
                )
            return outcome

    def _run_beside(
        self,
        removal: Removal,
        check: Check,
        stage: Stage,
        beside: Sequence[Check],
        recast: Recast,
        found: list[Tensor],
    ) -> None:
        """One narrowed network is enough for all that has to run."""
        for other in beside:
            if other.way and not check.way:
                wanted = STAGES[next(self._stages(other))]
                if not stage.random or wanted.dtype is None:
                    return  # it computes with other values then
                # A loss may change parameters in place: copies, always.
                recast(wanted.dtype)
                check, stage = other, wanted
            trained, failure = self._outputs(other, stage)
            if failure is not None:
                continue
            self._ran[other] = removal
            if _compares_modes(other):
                same = not trained or agree(found, trained, stage.tolerance)
                self._trained = removal, stage, None if same else trained

    def _beside(self, removal: Removal, check: Check) -> list[Check]:
        """What else has to run with the same channels and numbers."""
        if check.way and not self._only_runs(check):
            return []
        counts = {check.count}
        if not self._normalised and check.count is not Count.SOME:
            counts = {Count.ONE, Count.ALONE}  # which are the same then
        # The example first: other ways may need another precision.
        return [
            other
            for other in sorted(self.checks, key=lambda other: other.way)
            if other != check
            and other.count in counts
            and self._only_runs(other)
            and self._ran.get(other) is not removal
        ]

    def masked(
        self,
        removal: Removal,
        check: Check,
        stage: Stage,
        left: Left | None = None,
        seed: int = 0,
        shake: int = 0,
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
        """
        with self._computing(removal, check, stage):
            gate = removal.mask.to(stage.dtype or torch.float32)
            if shake:
                # Within eight steps of the last place, by the golden ratio.
                number = torch.arange(len(gate), dtype=torch.float64) + shake
                step = ((number * shake * GOLDEN) % 1 - 0.5).to(gate)
                gate = gate * (1 + 16 * torch.finfo(gate.dtype).eps * step)
            source = FixedGate(gate)
            self.unit.add_masks(self.model, source, self._analysis)
            return self._outputs(check, stage, left, seed)

    def _computing(
        self, removal: Removal, check: Check, stage: Stage
    ) -> AbstractContextManager[Recast]:
        # One channel alone would often be silenced by a rectifier.
        positive = check.count is not Count.SOME
        # A loss may change parameters in place; the example does not.
        return self.runner.computing(
            stage, removal.plan.slices, positive, alone=check.way > 0
        )

    def _outputs(
        self,
        check: Check,
        stage: Stage,
        left: Left | None = None,
        seed: int = 0,
    ) -> Outcome:
        way = self.ways[check.way]
        train = check.train or way.train
        return self.runner.outputs(way.run, stage, train, seed, left)


def _checks(ways: Sequence[Way]) -> Iterator[Check]:
    """What is tried, in order."""
    for count in (Count.SOME, Count.ONE):
        for number, way in enumerate(ways):
            if way.compare:
                yield Check(count, number)
    # Where nothing is compared, a norm over one channel hides nothing.
    for count in (Count.SOME, Count.ALONE):
        for number, way in enumerate(ways):
            if not way.compare:
                yield Check(count, number)
    yield Check(Count.SOME, train=True)
    if not _has_loss(ways):
        yield Check(Count.ALONE, train=True)


def _has_loss(ways: Sequence[Way]) -> bool:
    """Whether it is known how a network is really trained."""
    return any(way.train and not way.compare for way in ways)


def _compares_modes(check: Check) -> bool:
    """Whether training must compute the same, and not just run."""
    return check.train and check.count is Count.SOME


def _normalised(record: Trace, groups: Groups) -> set[str]:
    """Names of the prunable groups that some norm is computed over."""
    found = set()
    for module in record.living_modules.values():
        ids = module.ids[module.ids >= 0]
        found.update(groups.node_group[ids].unique().tolist())
    return {groups.prunable[number].name for number in found if number >= 0}


def _finite(tensors: Sequence[Tensor]) -> bool:
    return all(t.is_meta or bool(t.isfinite().all()) for t in tensors)
