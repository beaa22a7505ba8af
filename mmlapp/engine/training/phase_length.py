# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where in a run its pruning phase lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmengine.runner import Runner

from mmlapp.core import Pruner, PruningError
from mmlapp.core.numbers import check_number
from mmlapp.core.progress import Phase
from mmlapp.core.pruner.stability import ENDS, StableEnd

from ..run_end import end_of_training


@dataclass(frozen=True)
class PhaseLength:
    """Begin and length of a phase, as :class:`PruningHook` is told.

    Args:
        prune_epochs (float): Length in epochs.
        prune_iters (int, optional): Length in iterations, instead.
        begin_iters (int): Iterations before the phase.

    Raises:
        PruningError: If an argument is no number or lies outside its range.
    """

    prune_epochs: float
    prune_iters: int | None
    begin_iters: int

    def __post_init__(self) -> None:
        check_number('prune_epochs', self.prune_epochs, above=0)
        check_number('begin_iters', self.begin_iters, least=0, whole=True)
        if self.prune_iters is not None:
            check_number('prune_iters', self.prune_iters, least=1, whole=True)

    def iters(self, runner: Runner) -> int:
        """Returns the length in iterations.

        Args:
            runner (Runner): The runner, whose epochs have a length.
        """
        if self.prune_iters is not None:
            return self.prune_iters
        return self._rounded(self.prune_epochs * len(runner.train_dataloader))

    def _rounded(self, iters: float) -> int:
        # A phase without a step would have no end.
        return max(1, round(iters))

    def steps(self, runner: Runner) -> int:
        """Returns the length in steps of the optimizer.

        Args:
            runner (Runner): The runner, which may accumulate gradients.
        """
        # Rounded down: the last step must not lie beyond the length.
        return max(self.iters(runner) // accumulated(runner), 1)

    def end_rule(
        self, runner: Runner, end: Mapping[str, Any] | None
    ) -> StableEnd | None:
        """Returns what ends the phase of a run before its length is over.

        Args:
            runner (Runner): The runner, whose epochs have a length.
            end (Mapping, optional): See :func:`check_end`.

        Raises:
            PruningError: If a phase of this length could not end earlier.
        """
        if end is None:
            return None
        epoch = end['epoch']
        if epoch is None:
            every = accumulated(runner)
            # In steps of the optimizer, which may be fewer than batches.
            epoch = max(len(runner.train_dataloader) // every, 1)
        rule = StableEnd(epoch, end['similarity'])
        rule.check(self.steps(runner))
        return rule

    def begin(self, runner: Runner) -> int:
        """Returns the iteration at which a phase begins that has not yet.

        Args:
            runner (Runner): The runner; it may be past ``begin_iters``.
        """
        return max(self.begin_iters, runner.iter)

    def end(self, runner: Runner, pruner: Pruner) -> int:
        """Returns the iteration before which the phase is over.

        Args:
            runner (Runner): The runner.
            pruner (Pruner): Of its model; inside the phase its own steps
                count.
        """
        progress = pruner.progress
        if progress.phase != Phase.PRUNING:
            return self.begin(runner) + self.iters(runner)
        every = accumulated(runner)
        # Of the step that is being accumulated a part is done already.
        left = (progress.steps - progress.done) * every - runner.iter % every
        return int(runner.iter) + left

    def text(self, runner: Runner, pruner: Pruner) -> str:
        """Returns where the phase lies, in words.

        Args:
            runner (Runner): The runner.
            pruner (Pruner): Of its model.
        """
        progress, steps = pruner.progress, self.steps(runner)
        if progress.phase != Phase.PRUNING:
            begin = self.begin(runner)
            return f'in {self.iters(runner)} iterations from iteration {begin}'
        text = f'resumed after step {progress.done} of {progress.steps}'
        if steps != progress.steps:
            text += (
                f', which stay, though a phase would have {steps} now: the '
                'number of batches or of accumulated ones is another'
            )
        return text

    def check(self, runner: Runner, pruner: Pruner) -> None:
        """Refuses a phase that does not fit into the run.

        Args:
            runner (Runner): The runner.
            pruner (Pruner): Of its model.

        Raises:
            PruningError: With both ends.
        """
        last, end = self.end(runner, pruner), end_of_training(runner)
        if last > end:
            raise PruningError(
                f'the pruning phase ends at iteration {last}, but training '
                f'at {end}: train longer, or shorten '
                f'{self._shortened(pruner)}'
            )

    def _shortened(self, pruner: Pruner) -> str:
        """The settings by which the phase would end earlier, in words."""
        length = (
            f'prune_epochs={self.prune_epochs}'
            if self.prune_iters is None
            else f'prune_iters={self.prune_iters}'
        )
        # A phase that has begun keeps its length and its beginning.
        if pruner.progress.phase == Phase.PRUNING:
            return f'{length} in a new run'
        later = f' or begin_iters={self.begin_iters}'
        return length + (later if self.begin_iters else '')


class BoundedLength(PhaseLength):
    """The same in a run with a bound on its cost: never rounded up."""

    def _rounded(self, iters: float) -> int:
        # What is a whole number may come out a little below it.
        return max(1, math.floor(iters + 1e-6))


def check_end(end: Any) -> dict[str, Any] | None:
    """Returns the settings of what ends a phase early, all of them.

    Args:
        end (str, Mapping or StableEnd, optional): As a config has it.

    Raises:
        PruningError: If a name or a setting is unknown or out of range.

    Examples:
        >>> check_end('stable')
        {'epoch': None, 'similarity': 0.999}
    """
    if end is None:
        return None
    if isinstance(end, StableEnd):
        return asdict(end)
    settings = ENDS.spelled_out(end)
    # Of an epoch of one step, where the run says how long it is.
    built = ENDS.build({'epoch': 1, **settings})
    return {**asdict(built), 'epoch': settings.get('epoch')}


def accumulated(runner: Runner) -> int:
    """Returns over how many iterations the optimizer collects gradients.

    Args:
        runner (Runner): The runner.
    """
    # Private in MMEngine; a dictionary of wrappers has none.
    return int(getattr(runner.optim_wrapper, '_accumulative_counts', 1))
