# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether a network runs when it is narrowed, and computes the same.

A trace sees operators, not Python: a block may keep the number of its
channels in an attribute and use it as it was. What does not run, or computes
something else than its masked twin, is found here and left alone.

Two numbers of channels are tried: a prime one, another for every group, and
one of every group. The network gets fixed random values in which no gate is
near zero, computes in float64, and must agree with its masked twin but for
rounding, in its outputs and in how much every layer gives: the verdict depends
neither on the weights that the user happens to have nor on what outputs show.
Large images take long: where nothing else tells their size they are cut
to a corner, if the same modules run on it, else float32 comes first. A
network that cannot do all this is tried as closely to it as it can, see
:data:`STAGES`. In training mode, where other heads may wake up, it is compared
if it does something else than in evaluation, with noise that does not depend
on widths; what reads such noise at removed channels is masked there. Else, and
in ways whose outputs cannot be compared, such as a loss, it only has to run;
what reads something at removed channels in a loss is masked, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from ..compare import agree
from ..groups import ChannelGroup, Groups
from ..snapshot import Recast
from ..units import Request, Unit
from .checks import Check, checks_of, compares_modes, has_loss
from .choices import Choices
from .counts import Count
from .differences import Differences
from .reading import Reading
from .runs import Removal, all_finite
from .stages import (
    STAGES,
    Failure,
    Outcome,
    Stage,
    ask_in_training,
    makes_noise,
)


class Trial(Differences):
    """Runs a network without some channels of some groups.

    Args:
        request (Request): The network, an example and its trace.
        unit (Unit): What is removed.
    """

    def __init__(self, request: Request, unit: Unit) -> None:
        super().__init__(request, unit)
        # Number of the stage of each check, once it is known.
        self._settled: dict[Check, int] = {}
        # Ways that return no tensor: there is nothing to compare.
        self._silent: set[int] = set()
        # What it was last seen to run without, where it only has to run.
        self._ran: dict[Check, Removal] = {}
        # Without what training was last seen to run, at which stage, and what
        # it returned; None if the same as evaluation.
        self._trained: tuple[Removal, Stage, list[Tensor] | None] | None
        self._trained = None
        # What the masked one returned by the way, and without what.
        self._by_the_way: dict[tuple[Check, Stage], tuple[Removal, Outcome]]
        self._by_the_way = {}
        self._noisy = any(map(makes_noise, self.runner.names))
        self.checks = list(checks_of(self.ways))
        self._asks = ask_in_training(self.runner.names)
        # Modes and ways with code of their own that asks for numbers.
        self.asking = [
            *(Check(way=n) for n, way in enumerate(self.ways) if way.followed),
            *([Check(train=True)] if self._asks else []),
        ]

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
        removal = self.removal(groups, chosen, check.count, check.kept)
        # What else has to run without all of them; not without some alone.
        complete = len(chosen) == len(groups.prunable)
        beside = self._beside(removal, check) if complete else []
        if self._only_runs(check):
            failure = self._running(removal, check, beside)
            if failure is None and compare and compares_modes(check):
                failure = self._in_training(removal, check)
            if failure is None and complete:
                self._read_in(removal, check)
            return failure
        if check.count is Count.ALONE and not self.normalised:
            return None  # as with one of them left
        return self._compared(removal, check, beside, compare)

    def _compared(
        self,
        removal: Removal,
        check: Check,
        beside: Sequence[Check],
        compare: bool,
    ) -> Failure | None:
        """Runs the narrowed network, and holds it against the masked one.

        Args:
            removal (Removal): What is removed.
            check (Check): What is tried.
            beside (Sequence[Check]): What else has to run without it.
            compare (bool): As for :meth:`run`.
        """
        masked = self._settle(removal, check, beside)
        stage = STAGES[self._settled[check]]
        # With masks only where outputs are compared: they cost another run.
        narrowed, failure = self._narrowed(removal, check, stage, beside)
        if failure is not None and check.way:
            # In what way the whole network does not run, no part has to.
            runs, _ = self.whole(Check(way=check.way), STAGES[-1])
            return failure if runs else None
        if failure is not None or not compare or check.way in self._silent:
            return failure
        if masked is None:
            masked, failure = self._masked(removal, check, stage, beside)
        if failure is not None or agree(masked, narrowed, stage.tolerance):
            return failure
        if check.count is Count.ALONE and self._chooses(removal, check, stage):
            return None
        return self.difference(masked, narrowed, removal, check)

    def _chooses(self, removal: Removal, check: Check, stage: Stage) -> bool:
        """Whether numbers decide what is computed further.

        Behind a norm over one channel all are equal, and rounding would.
        """
        choices = Choices()
        with choices:
            self.masked(removal, check, stage)
        return choices.made

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
            masked, failure = self._masked(removal, check, stage)
            if failure is not None:
                return None  # nor is that due to narrowing
        if seen is not removal or at is not stage or narrowed is None:
            narrowed, failure = self.narrowed(removal, check, stage)
            if failure is not None:
                return failure
        if agree(masked, narrowed, stage.tolerance) or self._agrees_masked(
            narrowed, removal, check
        ):
            return None
        return self.difference(masked, narrowed, removal, check)

    def _agrees_masked(
        self, narrowed: list[Tensor], removal: Removal, check: Check
    ) -> bool:
        """Masks readers of what training adds, if that is all it takes."""
        stage, groups = self.stage(check), self._analysis.groups
        reading = Reading(self.model, self.record, groups, removal.mask)
        self.masked(removal, check, stage, left=reading.left)
        added = reading.deceived()
        if not added:
            return False
        self.record.readers |= added
        masked, failure = self.masked(removal, check, stage)
        if failure is None and agree(masked, narrowed, stage.tolerance):
            return True
        self.record.readers -= added
        return False

    def _read_in(self, removal: Removal, check: Check) -> None:
        """Masks readers of what a loss adds, which cannot be compared."""
        if not self.ways[check.way].train or check.count is not Count.SOME:
            return
        groups = self._analysis.groups
        reading = Reading(self.model, self.record, groups, removal.mask)
        for number in self._stages(check):
            _, failure = self.masked(
                removal, check, STAGES[number], left=reading.left
            )
            if failure is None:
                break
        self.record.readers |= reading.seen()

    def stage(self, check: Check) -> Stage:
        """Returns what the network computes with in a check that has run."""
        return STAGES[self._settled[check]]

    def _masked(
        self,
        removal: Removal,
        check: Check,
        stage: Stage,
        beside: Sequence[Check] = (),
    ) -> Outcome:
        """Runs the masked network, and in training mode where that is due.

        Masks are made once for both.
        """
        seen, outcome = self._by_the_way.pop((check, stage), (None, None))
        if seen is removal and outcome is not None:
            return outcome

        def then(found: list[Tensor], recast: Recast) -> None:
            del found, recast
            for other in filter(compares_modes, beside):
                trained = self.outputs(other, stage, mask=removal.mask)
                self._by_the_way[other, stage] = removal, trained

        beside = beside if self._noisy else ()
        return self.masked(removal, check, stage, then=then)

    def _settle(
        self, removal: Removal, check: Check, beside: Sequence[Check] = ()
    ) -> list[Tensor] | None:
        """Finds the stage of a check; returns the outputs by the way."""
        if check in self._settled:
            return None
        some = replace(check, count=Count.SOME)
        if check.way in self._silent and some in self._settled:
            self._settled[check] = self._settled[some]
            return []
        for number in self._stages(check):
            masked, failure = self._masked(
                removal, check, STAGES[number], beside
            )
            if failure is None and all_finite(masked):
                self._settled[check] = number
                if not masked:
                    self._silent.add(check.way)
                return masked
        # The masks may be what it does not run with.
        numbers = self._stages(check)
        runs = (n for n in numbers if self.whole(check, STAGES[n])[0])
        self._settled[check] = next(runs, len(STAGES) - 1)
        return None

    def _stages(self, check: Check) -> Iterator[int]:
        """Numbers of the stages to try, from one that it is known to need."""
        alone = check.count is Count.ALONE
        same = [
            number
            for other, number in self._settled.items()
            if other.way == check.way
            and (alone or other.count is not Count.ALONE)
        ]
        loose = not self.ways[check.way].compare
        for number in range(max(same, default=0), len(STAGES)):
            stage = STAGES[number]
            # What goes with the images may tell where things are in them.
            apart = stage.corner and (check.way or not self.corner)
            # Small ones are nearly as fast in float64. The corner tells. Norms
            # over two channels give a sign, and make rounding large.
            large = self.runner.corner.large or not self.corner
            signs = alone and not self.corner
            fast = stage.screen and (loose or signs or not large)
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
        tries = 1 if check.train and has_loss(self.ways) else None
        for number in islice(self._stages(check), tries):
            stage = STAGES[number]
            _, failure = self._narrowed(removal, check, stage, beside)
            if failure is None:
                self._ran[check] = removal
                return None
            # What the masked one does not run with is not due to narrowing.
            if self.masked(removal, check, stage)[1] is None:
                return failure
        return None

    def _narrowed(
        self,
        removal: Removal,
        check: Check,
        stage: Stage,
        beside: Sequence[Check],
    ) -> Outcome:
        """Runs the narrowed network, and what has to run as well."""

        def then(found: list[Tensor], recast: Recast) -> None:
            self._run_beside(removal, check, stage, beside, recast, found)

        return self.narrowed(removal, check, stage, then=then)

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
            trained, failure = self.outputs(other, stage)
            if failure is not None:
                continue
            self._ran[other] = removal
            if compares_modes(other):
                # What code does in training with all channels it may not do
                # with fewer, and evaluation never.
                same = not trained or (
                    not self._asks and agree(found, trained, stage.tolerance)
                )
                self._trained = removal, stage, None if same else trained

    def _beside(self, removal: Removal, check: Check) -> list[Check]:
        """What else has to run with the same channels and numbers."""
        # Numbers that the example asks for concern it alone.
        if check.kept or (check.way and not self._only_runs(check)):
            return []
        counts = {check.count}
        if not self.normalised and check.count is not Count.SOME:
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
