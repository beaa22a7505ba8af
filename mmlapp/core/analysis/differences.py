# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a difference between a narrowed network and its twin tells."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod

from torch import Tensor

from ..compare import ROUGH_TOLERANCE, agree, relative_errors
from ..errors import PruningWarning
from ..units import Request, Unit
from .checks import Check
from .runs import Removal, Runs, all_finite
from .stages import EXACT, Failure, Stage

# How often rounding is tried to make a difference, and how much larger than
# what it makes then a difference may be that is due to it.
SHAKES, AMPLE = 4, 16
ROUNDED = 'where nothing but rounding differs'


class Differences(Runs, ABC):
    """Tells a difference that narrowing makes from noise and rounding.

    Args:
        request (Request): The network, an example and its trace.
        unit (Unit): What is removed.
    """

    def __init__(self, request: Request, unit: Unit) -> None:
        super().__init__(request, unit)
        # Largest relative change of every output that rounding alone makes.
        self._rounding: dict[tuple[Check, Stage], list[float]] = {}
        # In which it was seen to give the same twice.
        self._steady: set[tuple[Check, Stage]] = set()

    @abstractmethod
    def stage(self, check: Check) -> Stage:
        """Returns what the network computes with in a check that has run.

        Args:
            check (Check): What is tried.
        """

    def difference(
        self,
        masked: list[Tensor],
        narrowed: list[Tensor],
        removal: Removal,
        check: Check,
    ) -> Failure | None:
        """Whether a difference of outputs tells something.

        Args:
            masked (list[Tensor]): Outputs with masks.
            narrowed (list[Tensor]): Those of the narrowed network.
            removal (Removal): What was removed.
            check (Check): What was tried.

        Returns:
            Failure or None: None if it need not be due to narrowing.
        """
        stage = self.stage(check)
        tolerance = stage.tolerance
        screened = stage.screen
        if screened:
            # Tells rounding of float32 from a difference, if float64 runs.
            exact, failure = self.masked(removal, check, EXACT)
            tolerance = ROUGH_TOLERANCE
            if failure is None and all_finite(exact):
                masked, stage, tolerance = exact, EXACT, EXACT.tolerance
                narrowed, _ = self.narrowed(removal, check, EXACT)
            if agree(masked, narrowed, tolerance):
                return None
        # Twice the same network: if even that differs, nothing can be said.
        if (check, stage) not in self._steady:
            again, _ = self.masked(removal, check, stage, seed=1)
            if not agree(masked, again, tolerance):
                return self._unlike_itself(masked, narrowed, check)
            self._steady.add((check, stage))
        rough = not screened and agree(masked, narrowed)
        if rough and self.runner.is_rough(self.ways[check.way].run, stage):
            return None
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
        return self._unlike_itself(masked, narrowed, check, ROUNDED)

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

    def _unlike_itself(
        self,
        masked: list[Tensor],
        narrowed: list[Tensor],
        check: Check,
        when: str = 'at every call',
    ) -> Failure | None:
        if not check.way and agree(masked[:-1], narrowed[:-1]):
            return None  # layers alone differ, which nobody sees
        finite = all_finite(masked)
        if not finite and self.whole(check, self.stage(check))[1]:
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
