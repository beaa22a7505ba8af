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

from ..errors import PruningError, PruningWarning
from ..mask.masked import apply_masks
from ..methods.budget import Budget, first_fitting, snap
from ..methods.schedule import Schedule, check_targets
from ..misuse import (
    BranchWatch,
    check_all_live,
    check_decided,
    check_finished,
    check_mask,
    check_on_network,
    warn_of_frozen,
    warn_of_short_phase,
    warn_of_silence,
)
from ..numbers import check_number
from ..plan.plan import ChannelPlan
from ..progress import Phase, Progress
from .lasting import lasting
from .protection import lifted
from .ranks import holds_on_all
from .shrinking import check_hard, shrunk, warn_of_late_ends
from .signals import Signals
from .stability import ENDS, NEAR, Stability, StableEnd


class Pruner(Signals):
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
        shrink_steps (int): Steps in which the gate of a condemned channel
            falls to zero. Defaults to 1.
        protect (float): Share of every group with the largest gradients,
            which is spared as long as the budget allows. Defaults to 0.
    """

    def _set_up(self) -> None:
        self.method.setup(self)

    def _finish_method(self) -> None:
        self.method.finish(self)

    # The phase. Costs and scores take gradients, whatever mode it is led in.

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
        check_on_network('begin', self.taken_off)
        if self.phase == Phase.PRUNING:
            raise PruningError(
                f'begin: the pruning phase is at step {self.progress.done} of '
                f'{self.progress.steps} and begins only once. Call '
                'pruner.finish() to end it here, or pruner.reset() before '
                'another one'
            )
        target = check_targets(target, self.costs)
        for value in target.values():
            Schedule(value, steps)  # checks both
        stability = self._stability(end, steps)
        self.method.check(steps)
        self.check_reachable(target)
        check_all_live(self.mask)
        self.scorer.check_prepared()
        warn_of_short_phase(target, steps)
        warn_of_late_ends(self.shrink_steps, steps)
        warn_of_frozen(self.groups)
        if self.harm is not None:
            self.harm.begin()
        self._look(0)
        self._forget()
        before = self.progress
        self.progress = Progress(Phase.PRUNING, 0, steps, target)
        try:
            gate = self._asked('begin', self.method.begin(self))
        except Exception:
            self.progress = before
            raise
        self._set_gate(gate)
        self.stability = stability
        self.active, self.given = True, False
        self.watch.stepped()
        self.branch_watch = BranchWatch(self.groups)
        self.gate.requires_grad_(self.uses_gradient)

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

    def loss(self) -> Tensor:
        """Returns what the method adds to the task loss; else zero."""
        if self.phase != Phase.PRUNING:
            return torch.zeros((), device=self.gate.device)
        return self.method.loss(self)

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
        self.watch.stepped()
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
        if self._ends_early() or self.progress.done >= self.progress.steps:
            self.finish()

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
        order = self.spared_first(order)
        mask = self.kept_within(self.progress.target, order)
        self.gate.requires_grad_(False)
        self.set_mask(mask)
        self._finish_method()
        self.progress = replace(self.progress, phase=Phase.FINISHED)

    def kept_within(
        self, target: Mapping[str, float], order: Tensor
    ) -> Tensor:
        """Returns what the exact budget keeps of an order of all channels.

        Args:
            target (Mapping[str, float]): Fractions of the dense network's
                costs, by name.
            order (Tensor): The larger, the longer it is kept;
                ``[channels]``.

        Returns:
            Tensor: Bool mask, ``[channels]``.
        """
        return snap(
            self.budget(target),
            order,
            self.group,
            self.floors,
            self.divisors,
            # To a point below the target, a hundredth of the dense network.
            1 - 0.01 / max(target.values()),
        )

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
        check_mask(mask, self.groups)
        self._set_gate(mask)
        self.active = self.given = True
        if target is not None:
            self.progress = Progress(Phase.FINISHED, target=dict(target))
            self.stability = None

    def plan(self) -> ChannelPlan:
        """Returns what the gate keeps, ready for ``narrow``.

        Raises:
            PruningError: Before the end of the phase, unless a mask was set
                from outside.
        """
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
        if training and self.phase == Phase.PRUNING:
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

    # Parts of a phase and of a step.

    def _asked(self, call: str, found: Any) -> Tensor:
        """What a method returned, which may be somebody's own."""
        name = f'method {type(self.method).__name__}: {call}'
        return check_decided(name, found, self.gate)

    def _stability(self, end: Any, steps: int) -> Stability | None:
        if end is None:
            return None
        found: StableEnd = ENDS.build(end)
        found.check(steps)
        return Stability.begin(found, len(self.gate))

    def _ends_early(self) -> bool:
        """Whether the kept channels have settled, at the end of an epoch."""
        known, progress = self.stability, self.progress
        if known is None or progress.done % known.end.epoch:
            return False
        mask = self.mask.cpu()
        self.stability = known.noted(mask)
        used = self.budget(progress.target).used(mask.double())
        met = used <= NEAR and torch.equal(self.gate, self.decided)
        settled = met and self.stability.is_stable(self.sizes)
        # All processes end at one step, or none does.
        return holds_on_all(settled, self.gate.device)

    def _spared(self, decided: Tensor) -> Tensor:
        """What a method decided, with protected ones for those ranked last."""
        if self.protect == 0:
            return decided
        check_hard('protect', self.protect, decided)
        spared = self.protected
        if ((decided != 0) | ~spared).all():
            return decided
        # First what is protected, then what the method keeps, then the rest:
        # cut where the cost is that of what the method keeps.
        order = lifted(self.method.ranking(self), decided == 1, spared)
        kept, group = decided.cpu(), self.host_parts.owner
        limits = [
            (cost := self.host_cost(name), float(cost(kept)))
            for name in self.progress.target
        ]
        mask = first_fitting(Budget(limits), order, group, self.floors)
        return mask.to(decided.dtype)

    def _shrunk(self, decided: Tensor) -> Tensor:
        """The gate after a step that decided, ``[channels]``."""
        if self.method.shrinks:
            return torch.where(decided == 1, decided, self.method.fade(self))
        return shrunk(self.gate, decided, self.shrink_steps)

    def relax(self, training: bool) -> None:
        """Puts in place of the gate what the method wants in a forward.

        Args:
            training (bool): Whether in training mode.
        """
        relaxed = None
        wanted = training or self.method.relaxes_evaluation
        if wanted and self.phase == Phase.PRUNING:
            relaxed = self.method.relaxed(self)
        if relaxed is not None:
            # Adds nothing, but who asks for the gradient by the gate gets it.
            relaxed = lasting(relaxed) + (self.gate - self.gate.detach())
        self.stand_in.value = relaxed

    @torch.no_grad()
    def multiply(self, factor: Tensor) -> None:
        """Multiplies all masked parameters as their masks would, for good.

        Args:
            factor (Tensor): In place of the gate, ``[channels]``.
        """
        self.stand_in.value = factor
        for module, name in self.masked:
            stored = module._parameters[name]
            assert stored is not None
            stored.copy_(apply_masks(module, name, stored))
        self.stand_in.value = None

    @torch.no_grad()
    def _set_gate(self, gate: Tensor) -> None:
        self.gate.copy_(gate)
        self.stand_in.value = None
