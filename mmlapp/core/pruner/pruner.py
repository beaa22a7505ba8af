# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The child of a prunable network: the pruning phase and the plan."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..default_device import on_cpu
from ..errors import PruningError, PruningWarning
from ..methods.schedule import Schedule, check_targets
from ..misuse import (
    BranchWatch,
    check_all_live,
    check_finished,
    check_has_values,
    check_mask,
    check_on_network,
    warn_of_frozen,
    warn_of_short_phase,
    warn_of_silence,
)
from ..numbers import check_number
from ..plan.plan import ChannelPlan
from ..progress import Phase, Progress
from .decisions import Decisions
from .shrinking import warn_of_late_ends
from .stability import StableEnd


class Pruner(Decisions):
    """Holds what every method needs; the method decides.

    Masked parameters read :attr:`gate`, a buffer with one number in [0, 1]
    per channel, and nothing else; its gradient is what methods learn from. In
    training a method may put relaxed numbers in its place.

    Args:
        groups (Sequence[GroupInfo]): Prunable groups, in order.
        layout (Layout): Where their channels live.
        costs (Mapping[str, nn.Module]): What can be budgeted, by name.
        method (Method): Who decides.
        scorer (Scorer): How much each channel matters.
        divisor (int): What the numbers of kept channels are multiples of
            at the end of the phase. Defaults to 1.
        least (Callable): From the width of a group to the least share of it
            that every network of the phase keeps. Defaults to none.
        shrink (int, str, Mapping or Shrinking, optional): How the gate of
            a condemned channel falls to zero. Defaults to None: as the method
            wants it.
        protect (float): Share of every group with the largest gradients,
            which is spared as long as the budget allows. Defaults to 0.

    Examples:
        >>> from mmlapp.core import attach
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> pruner = attach(model, torch.rand(1, 3, 9, 9))
        >>> pruner.begin({'flops': 0.5}, steps=1)
        >>> pruner.step()
        >>> pruner.phase.name, pruner.keep_ratios()
        ('FINISHED', {'0': 0.5})
    """

    # The phase. Costs and scores take gradients, whatever mode it is led in.

    @on_cpu()
    @torch.inference_mode(False)
    def begin(
        self,
        target: Mapping[str, float],
        steps: int,
        end: str | Mapping[str, Any] | StableEnd | None = None,
    ) -> None:
        """Starts the pruning phase.

        Args:
            target (Mapping[str, float]): Asked fraction of the dense
                network's cost, by name of the cost. Several hold together.
            steps (int): Length of the phase in optimizer steps.
            end (str, Mapping or StableEnd, optional): What ends it earlier,
                such as ``StableEnd(epoch=len(loader))``. Defaults to None:
                nothing does.

        Raises:
            PruningError: If a target is unknown or cannot be reached, if the
                score was not prepared, in the middle of a phase, while
                channels are removed, or after narrowing.
        """
        target = self._check_begin(target, steps)
        stability = self._stability(end, steps)
        warn_of_short_phase(target, steps)
        warn_of_late_ends(self.shrink, self.method.ramp, steps)
        warn_of_frozen(self.groups)
        if self.harm is not None:
            self.harm.begin()
        # Scores first: methods rank as they begin.
        self._look(0)
        self._forget()
        before = self.progress
        self.progress = Progress(Phase.PRUNING, 0, steps, target)
        try:
            # Within its phase: what it asks for a schedule is there already.
            gate = self._asked('begin', self.method.begin(self))
        except Exception:
            self.progress = before
            raise
        self._set_gate(gate)
        self.stability = stability
        self.active, self.given = True, False
        self.watch.begin()
        self.branch_watch = BranchWatch(self.groups)
        self.gate.requires_grad_(self.uses_gradient)

    def _check_begin(
        self, target: Mapping[str, float], steps: int
    ) -> dict[str, float]:
        """Returns checked targets of a phase that can begin now."""
        check_on_network('begin', self.taken_off)
        if self.phase == Phase.PRUNING:
            raise PruningError(
                f'begin: the pruning phase is at step {self.progress.done} of '
                f'{self.progress.steps} and begins only once. Call '
                'pruner.finish() to end it here, or pruner.reset() before '
                'another one'
            )
        checked = check_targets(target, self.costs)
        for value in checked.values():
            Schedule(value, steps)  # checks both
        self.method.check(steps)
        self.check_reachable(checked)
        check_all_live(self.mask)
        self.scorer.check_prepared()
        return checked

    @on_cpu()
    @torch.no_grad()
    def reset(self) -> None:
        """Forgets a phase, as if it had never begun: all channels live.

        The method starts afresh when the next one begins.
        """
        self.gate.requires_grad_(False)
        self._forget()
        self._set_gate(torch.ones_like(self.scores))
        self.scores.zero_()
        self.progress, self.given = Progress(), False
        self.stability = None

    @on_cpu()
    def loss(self) -> Tensor:
        """Returns what the method adds to the task loss; else zero."""
        if self.phase != Phase.PRUNING:
            return torch.zeros((), device=self.gate.device)
        return self.method.loss(self)

    @on_cpu()
    @torch.inference_mode(False)
    @torch.no_grad()
    def step(self, loss_scale: float = 1.0) -> None:
        """Lets the method decide; call it after ``optimizer.step()``.

        The last step of the phase fixes the gate within the budget, and so
        does the one at which it ends early. After the phase it does nothing,
        and before it warns of that.

        Args:
            loss_scale (float): Factor on the losses, as a gradient scaler
                applies it. Defaults to 1.

        Raises:
            PruningError: If importance scores are not finite, the factor is
                not positive, or the phase goes on after narrowing.
        """
        check_number('loss_scale', loss_scale, above=0)
        if self.phase != Phase.PRUNING:
            self._forget()
            self._warn_before_begin()
            return
        check_on_network('step', self.taken_off)
        before = self.progress
        self.watch.before_step()
        self.loss_scale = loss_scale
        after = replace(before, done=before.done + 1)
        self._look(after.done)
        if self.harm is not None:
            warn_of_silence(self.harm, after)
        if self.branch_watch is not None:
            self.branch_watch.after_step(after)
        # Counted up first: the method decides about the network after this
        # step, whose target it is to meet.
        self.progress = after
        self.given = False
        try:
            decided = self._asked('step', self.method.step(self))
            self._set_gate(self._shrunk(self._spared(decided)))
        except Exception:
            self.progress = before
            raise
        finally:
            self._forget()
            self.watch.stepped()
        if self._ends_early() or self.progress.done >= self.progress.steps:
            self.finish()

    @on_cpu()
    @torch.no_grad()
    def finish(self) -> None:
        """Ends the pruning phase: within the budget, 0 or 1, then fixed.

        What is over stays as it is.

        Raises:
            PruningError: If the phase has not begun, or after narrowing.
        """
        check_on_network('finish', self.taken_off)
        if self.phase == Phase.FINISHED:
            return
        if self.phase == Phase.DENSE:
            raise PruningError(
                'finish: the pruning phase has not begun; call begin first'
            )
        order = self._asked('ranking', self.method.ranking(self))
        # Here, too, protected ones stay as long as the budget allows.
        order = self.spared_first(order)
        mask = self.kept_within(self.progress.target, order)
        self.gate.requires_grad_(False)
        self.set_mask(mask)
        self.method.finish(self)
        self.progress = replace(self.progress, phase=Phase.FINISHED)

    @on_cpu()
    def set_mask(
        self, mask: Tensor, target: Mapping[str, float] | None = None
    ) -> None:
        """Fixes which channels live, from outside of any method.

        Args:
            mask (Tensor): Bool, ``[channels]``.
            target (Mapping[str, float], optional): If given, the phase is
                over, and these were its targets. Defaults to None.

        Raises:
            PruningError: If the mask is of another network, or keeps less of
                a group than the network runs with, or after narrowing.
        """
        check_on_network('set_mask', self.taken_off)
        check_has_values(self.gate)
        check_mask(mask, self.groups)
        self._set_gate(mask)
        self.active = self.given = True
        if target is not None:
            self.progress = Progress(Phase.FINISHED, target=dict(target))
            self.stability = None

    @on_cpu()
    def plan(self) -> ChannelPlan:
        """Returns what the gate keeps, ready for ``narrow``.

        Raises:
            PruningError: Before the end of the phase, unless a mask was set
                from outside.
        """
        check_has_values(self.gate)
        mask, costs = self.mask.cpu(), {}
        # Before any phase only a mask from outside removes channels.
        dense = self.phase == Phase.DENSE and bool(mask.all())
        if not self.given and (dense or self.phase == Phase.PRUNING):
            check_finished(self.progress)
        for name in self.costs:
            cost = self.cost(name)
            # As the living count, which is what the narrow network will cost.
            pruned = float(self.host_cost(name)(mask.double()))
            costs[name] = {'dense': cost.dense, 'pruned': pruned}
            if name in self.progress.target:
                costs[name]['target'] = self.progress.target[name]
        return self.layout.plan(mask, self.by_group(mask), costs)

    @on_cpu()
    @torch.inference_mode(False)
    def prepare(self, model: nn.Module, batches: Iterable[Any]) -> None:
        """Lets the score look at calibration batches, once.

        Args:
            model (nn.Module): The network that this prunes.
            batches (Iterable): See :meth:`Scorer.prepare`.
        """
        self.scorer.prepare(model, self.groups, batches)

    # What is easily forgotten.

    def before_forward(self, training: bool) -> None:
        """Called when the network is about to run.

        Args:
            training (bool): Whether in training mode.
        """
        # Training may also be in evaluation mode, whose norms stay.
        learns = training or torch.is_grad_enabled()
        if learns and self.phase == Phase.PRUNING:
            self.watch.before_forward()
            self._follow_weights()

    def _warn_before_begin(self) -> None:
        if self.phase == Phase.DENSE and not self.warned:
            self.warned = True
            warnings.warn(
                'step: the pruning phase has not begun, and nothing is pruned '
                'before pruner.begin(target, steps)',
                PruningWarning,
                stacklevel=4,
            )

    def __prepare_scriptable__(self) -> None:
        """Refuses compilation of the source, which knows no masks."""
        raise PruningError(
            'torch.jit.script: the network is masked, which its source does '
            'not say. Make it small with narrow(model, pruner.plan()) first, '
            'or use torch.jit.trace or torch.compile'
        )
