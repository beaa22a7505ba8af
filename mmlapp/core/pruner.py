# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The child of a prunable network: gate, phase, costs and plan."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .cost.base import Cost
from .errors import PruningError, PruningWarning
from .mask.gate import AppliedMask
from .methods.base import Method
from .methods.budget import Budget, reachable, snap
from .methods.schedule import Schedule, check_targets
from .misuse import (
    StepWatch,
    check_all_live,
    check_finished,
    check_mask,
    check_on_network,
    warn_of_frozen,
    warn_of_short_phase,
)
from .numbers import check_number
from .plan.layout import Layout
from .plan.plan import ChannelPlan
from .progress import Phase, Progress
from .score import Scorer
from .score.group_scores import GroupInfo, report_non_finite


class Pruner(nn.Module):
    """Holds what every method needs; the method decides.

    Masked parameters read :attr:`gate`, a buffer with one number in [0, 1]
    per channel, and nothing else; its gradient is what methods learn from.
    The gate, scores and whatever a method keeps are buffers, not parameters:
    no optimizer, weight decay, gradient clipping or DDP reducer touches
    them.

    Args:
        groups (Sequence[GroupInfo]): Prunable groups, in order.
        layout (Layout): Where their channels live.
        costs (Mapping[str, nn.Module]): What can be budgeted, by name.
        method (Method): Who decides.
        scorer (Scorer): How much each channel matters.
        divisor (int): What the numbers of kept channels are multiples of
            at the end of the phase. Defaults to 1.
    """

    gate: Tensor
    scores: Tensor
    group: Tensor
    method: Method

    def __init__(
        self,
        groups: Sequence[GroupInfo],
        layout: Layout,
        costs: Mapping[str, Cost],
        method: Method,
        scorer: Scorer,
        divisor: int = 1,
    ) -> None:
        super().__init__()
        self.groups, self.layout = list(groups), layout
        self.scorer, self.divisor = scorer, divisor
        # No ModuleDict, which takes no child named `parameters`.
        self.counted = nn.ModuleList(costs.values())
        self.costs = list(costs)
        # No buffer: read several times in each step, it stays on the CPU.
        self._stored = Progress().to_tensor(list(costs))
        self.progress = Progress()
        # Masks apply from the first forward on; before it, weights are set.
        self.active, self.complete = False, False
        # Whether the gate was set from outside of any phase.
        self.given, self.warned = False, False
        # Whether narrowing took it off its network.
        self.taken_off = False
        self.watch = StepWatch(self.groups)
        self.applied_masks: list[AppliedMask] = []
        # Of the hooks on the network that go when the pruner goes.
        self.hook_ids: list[int] = []
        # Of the image at which costs were counted, where that is known.
        self.input_shape: Any = None
        # By name of the argument, where it is known how pruning was asked for.
        self.settings: dict[str, Any] = {}
        self.gradient: Tensor | None = None
        self.loss_scale = 1.0
        sizes = torch.tensor([g.size for g in self.groups])
        # Group of every channel, [channels]: 0 0 0 1 1 2 2 2 2 ...
        owner = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.register_buffer('group', owner, persistent=False)
        self.register_buffer('gate', torch.ones(len(owner)))
        self.register_buffer('scores', torch.zeros(len(owner)))
        self.method = method
        method.setup(self)

    def forward(self, x: Tensor) -> Tensor:
        """Returns its input: an ``nn.Sequential`` runs its new child too."""
        return x

    # What there is.

    @property
    def sizes(self) -> list[int]:
        """Number of channels of every group."""
        return [g.size for g in self.groups]

    @property
    def floors(self) -> list[int]:
        """Fewest channels to keep, of every group."""
        return [g.floor for g in self.groups]

    @property
    def progress(self) -> Progress:
        """Phase, steps and targets."""
        return self._progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        self._progress = progress
        self._stored.copy_(progress.to_tensor(self.costs))

    @property
    def phase(self) -> Phase:
        """Before, in or after the pruning phase."""
        return self.progress.phase

    @property
    def mask(self) -> Tensor:
        """Which channels live, bool ``[channels]``."""
        return self.gate.detach() > 0

    def ratios(self, costs: Sequence[str] | None = None) -> dict[str, float]:
        """Returns the current fractions of the dense network's costs.

        Args:
            costs (Sequence[str], optional): Which ones. Defaults to None:
                all.
        """
        gate, names = (
            self.gate.detach(),
            self.costs if costs is None else costs,
        )
        return {name: float(self.cost(name).ratio(gate)) for name in names}

    def cost(self, name: str) -> Cost:
        """Returns one of the costs.

        Args:
            name (str): Its name.
        """
        cost = self.counted[self.costs.index(name)]
        assert isinstance(cost, Cost)
        return cost

    def targets(self) -> dict[str, float]:
        """Returns where the schedule wants the ratios at this step."""
        return {
            name: Schedule(target, self.progress.steps).at(self.progress.done)
            for name, target in self.progress.target.items()
        }

    def binding_cost(self) -> str:
        """Returns the target that is missed most; of one, that one."""
        targets = self.targets()
        if len(targets) == 1:
            return next(iter(targets))
        ratios = self.ratios(list(targets))
        # The largest ratio over its target.
        return max(targets, key=lambda name: ratios[name] / targets[name])

    def by_group(self, values: Tensor) -> dict[str, Tensor]:
        """Splits values of channels, ``[channels]``, by name of the group."""
        parts = values.split(self.sizes)
        return dict(zip([g.name for g in self.groups], parts, strict=True))

    def keep_ratios(self) -> dict[str, float]:
        """Returns the share of living channels of every group."""
        mask = self.mask.cpu()
        return {
            name: float(part.double().mean())
            for name, part in self.by_group(mask).items()
        }

    # The phase.

    def begin(self, target: Mapping[str, float], steps: int) -> None:
        """Starts the pruning phase.

        Args:
            target (Mapping[str, float]): Asked fraction of the dense
                network's cost, by name of the cost. Several hold together.
            steps (int): Length of the phase in optimizer steps.

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
        self.check_reachable(target)
        check_all_live(self.mask)
        self.scorer.check_prepared()
        warn_of_short_phase(target, steps)
        warn_of_frozen(self.groups)
        self._update_scores(0)
        self.progress = Progress(Phase.PRUNING, 0, steps, target)
        self.active, self.given = True, False
        self._forget()
        self.watch.stepped()
        self.gate.requires_grad_(self.method.uses_gradient)
        self._set_gate(self.method.begin(self))

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

    def check_reachable(self, target: Mapping[str, float]) -> None:
        """Raises PruningError if a target lies below what must be kept.

        Args:
            target (Mapping[str, float]): Fractions by name of the cost.
        """
        if self.gate.is_meta:
            raise PruningError(
                'the network is on the device meta, where nothing has '
                'values: move it with to_empty and load its weights before '
                'it is pruned'
            )
        for name, value in check_targets(target, self.costs).items():
            cost = self.cost(name)
            lowest = reachable(
                cost, self.scores, self.group, self.floors, self.divisor
            )
            # From multiply-adds or elements to a fraction, like the target.
            lowest /= cost.dense
            if value < lowest:
                raise PruningError(
                    f'target {name}={value} lies below the reachable minimum '
                    f'of {lowest:.4f}: the rest belongs to layers that are '
                    'not prunable or to bypasses. Raise the target or widen '
                    'the scope'
                )

    def loss(self) -> Tensor:
        """Returns what the method adds to the task loss; else zero."""
        if self.phase != Phase.PRUNING:
            return torch.zeros((), device=self.gate.device)
        return self.method.loss(self)

    @torch.no_grad()
    def step(self, loss_scale: float = 1.0) -> None:
        """Lets the method decide; call it after ``optimizer.step()``.

        The last step of the phase fixes the gate within the budget. After
        the phase it does nothing, and before it warns of that.

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
        self._update_scores(before.done + 1)
        self.loss_scale = loss_scale
        self.gradient = self._reduced_gradient()
        # Counted up first: the method decides about the network after this
        # step, whose target it is to meet.
        self.progress = replace(before, done=before.done + 1)
        self.given = False
        try:
            self._set_gate(self.method.step(self))
        except Exception:
            self.progress = before
            raise
        finally:
            self._forget()
        if self.progress.done >= self.progress.steps:
            self.finish()

    @torch.no_grad()
    def finish(self) -> None:
        """Ends the pruning phase: within the budget, 0 or 1, then fixed.

        Raises:
            PruningError: If the phase has not begun, or after narrowing.
        """
        check_on_network('finish', self.taken_off)
        if self.phase == Phase.DENSE:
            raise PruningError(
                'finish: the pruning phase has not begun; call begin first'
            )
        mask = snap(
            self.budget(self.progress.target),
            self.method.ranking(self),
            self.group,
            self.floors,
            self.divisor,
            # To a point below the target, a hundredth of the dense network.
            1 - 0.01 / max(self.progress.target.values()),
        )
        self.gate.requires_grad_(False)
        self.set_mask(mask)
        self.method.finish(self)
        self.progress = replace(self.progress, phase=Phase.FINISHED)

    def budget(self, target: Mapping[str, float]) -> Budget:
        """Returns what may be spent on each cost.

        Args:
            target (Mapping[str, float]): Fractions of the dense network.
        """
        return Budget(
            [
                # A limit in the unit of the cost: 0.5 of 4e9 is 2e9.
                (cost := self.cost(name), value * cost.dense)
                for name, value in target.items()
            ]
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
                a group than its floor, or after narrowing.
        """
        check_on_network('set_mask', self.taken_off)
        check_mask(mask, self.groups)
        self._set_gate(mask)
        self.active = self.given = True
        if target is not None:
            self.progress = Progress(Phase.FINISHED, target=dict(target))

    def plan(self) -> ChannelPlan:
        """Returns what the gate keeps, ready for ``narrow``.

        Raises:
            PruningError: Before the end of the phase, unless a mask was set
                from outside.
        """
        mask, costs = self.mask, {}
        # Before any phase only a mask from outside removes channels.
        dense = self.phase == Phase.DENSE and bool(mask.all())
        if not self.given and (dense or self.phase == Phase.PRUNING):
            check_finished(self.progress)
        for name in self.costs:
            cost = self.cost(name)
            # As the living count, which is what the narrow network will cost.
            pruned = float(cost(mask.double()))
            costs[name] = {'dense': cost.dense, 'pruned': pruned}
            if name in self.progress.target:
                costs[name]['target'] = self.progress.target[name]
        mask = mask.cpu()
        return self.layout.plan(mask, self.by_group(mask), costs)

    def take_over(self, other: Pruner) -> None:
        """Makes gate, state and progress those of another one.

        Args:
            other (Pruner): Of a copy of the same network.
        """
        for mine, theirs in zip(self.buffers(), other.buffers(), strict=True):
            mine.data.copy_(theirs.data)
        self.progress, self.active = other.progress, other.active

    def prepare(self, model: nn.Module, batches: Iterable[Any]) -> None:
        """Lets the score look at calibration batches, once.

        Args:
            model (nn.Module): The network that this prunes.
            batches (Iterable): See :meth:`Scorer.prepare`.
        """
        self.scorer.prepare(model, self.groups, batches)

    # What is no use.

    def before_forward(self, training: bool) -> None:
        """Called when the network is about to run.

        Args:
            training (bool): Whether in training mode.
        """
        if training and self.phase == Phase.PRUNING:
            self.watch.before_forward()

    def _warn_before_begin(self) -> None:
        if self.phase == Phase.DENSE and not self.warned:
            self.warned = True
            warnings.warn(
                'step: the pruning phase has not begun, and nothing is pruned '
                'before pruner.begin(target, steps)',
                PruningWarning,
                stacklevel=4,
            )

    # State.

    @torch.no_grad()
    def _set_gate(self, gate: Tensor) -> None:
        self.gate.copy_(gate)

    def _update_scores(self, step: int) -> None:
        if not self.scorer.is_due(step):
            return
        scores = self.scorer.compute(self.groups)
        if self.scorer.score.batches:  # each process saw some of its own
            scores = _mean_over_ranks(scores)
        if not scores.isfinite().all():
            report_non_finite(self.groups, self.scorer.score, step)
        self.scores.copy_(scores)

    def _reduced_gradient(self) -> Tensor | None:
        """Gradient by the gate, mean over processes; None if unusable."""
        if not self.method.uses_gradient:
            return None
        gradient = self.gate.grad
        found = gradient is not None
        if gradient is None:
            gradient = torch.zeros_like(self.gate)
        # [channels + 1]: at the end the share of processes with a gradient.
        # All processes must reduce, also those that had no backward.
        reduced = _mean_over_ranks(
            torch.cat(
                [gradient / self.loss_scale, gradient.new_tensor([found])]
            )
        )
        # After an overflow a scaler skips the optimizer's step, too.
        usable = reduced[-1] > 0 and reduced[:-1].isfinite().all()
        return reduced[:-1] if usable else None

    def _forget(self) -> None:
        self.gate.grad = self.gradient = None

    def _apply(self, fn: Any, recurse: bool = True) -> Pruner:
        """Follows the network to its device; types stay as they are.

        Counts and costs need their range, and a buffer that learns must be
        a leaf again after it was moved.
        """
        before = {
            (module, name): value
            for module in self.modules()
            for name, value in module._buffers.items()
        }
        super()._apply(fn, recurse)
        for (module, name), value in before.items():
            moved = module._buffers[name]
            if moved is None or value is None or moved is value:
                continue
            # Only the device of what `fn` made is taken, not its type. A
            # tensor on meta has no values to move: what `fn` made stays.
            if value.device.type != 'meta':
                moved = value.detach().to(moved.device)
            module._buffers[name] = moved.detach().requires_grad_(
                value.requires_grad
            )
        return self

    def _save_to_state_dict(
        self, destination: Any, prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f'{prefix}progress'] = self._stored

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        if self._is_dense(state_dict, prefix):
            # The method and costs read theirs from the same dictionary; who
            # loads made it for this pruner.
            state_dict.update(self.state_dict(prefix=prefix, keep_vars=True))
            return
        key = f'{prefix}progress'
        # No buffer has this name: torch would report it as unexpected.
        super()._load_from_state_dict(
            {k: v for k, v in state_dict.items() if k != key},
            prefix,
            local_metadata,
            strict,
            missing_keys,
            *args,
        )
        if key in state_dict:
            self.progress = Progress.from_tensor(state_dict[key], self.costs)
            # As `begin` and `finish` would have left it.
            learns = self.phase == Phase.PRUNING and self.method.uses_gradient
            self.gate.requires_grad_(learns)
        elif strict:
            missing_keys.append(key)
        if f'{prefix}gate' in state_dict:
            self.active = True

    def _is_dense(self, state_dict: Any, prefix: str) -> bool:
        """Whether weights of a dense network come, and nothing was pruned.

        What they lack of the pruner is then no fault of theirs.
        """
        known = any(name.startswith(prefix) for name in state_dict)
        if known or not prefix or self.phase != Phase.DENSE:
            return False
        return self.gate.is_meta or bool(self.mask.all())

    def extra_repr(self) -> str:
        """Shows what is pruned."""
        return f'groups={len(self.groups)}, channels={len(self.gate)}'


def _mean_over_ranks(tensor: Tensor) -> Tensor:
    """Averages over the processes of a distributed run."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
        tensor = tensor / dist.get_world_size()
    return tensor
