# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Thresholds, masks and the FLOPs constraint of one network."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .cost.flops import FlopsTable
from .errors import PruningError
from .mask.gate import HardMask, MaskPlace
from .methods.budget import reachable, snap
from .methods.lapp.controller import Controller
from .methods.lapp.sensitivity import Margin
from .methods.lapp.surrogates import Surrogate
from .methods.schedule import Schedule, check_target, penalty, penalty_slope
from .plan.layout import Layout
from .plan.plan import ChannelPlan
from .pruner_state import DENSE, FINISHED, PRUNING, ThresholdState
from .score.group_scores import GroupInfo, group_scores, report_non_finite
from .score.scores import NORMALISATIONS, SCORES


class LAPP(ThresholdState):
    """What decides on the channels; a child of the pruned network.

    Thresholds are buffers, not parameters: no optimizer, weight decay,
    gradient clipping or DDP reducer touches them, and they are stepped by
    :meth:`step`.

    Args:
        groups (list[GroupInfo]): Prunable groups, in order.
        layout (Layout): Where their channels live.
        flops (FlopsTable): Multiply-adds as a function of the masks.
        dense_flops (float): Multiply-adds of the user's own network.
        score (str): Importance score.
        normalisation (str): How scores of different layers become
            comparable.
        surrogate (Surrogate): Derivative of the mask.
        controller (Controller): Rule of the thresholds' steps.
        divisor (int): What the numbers of kept channels are multiples of
            at the end of the phase. Defaults to 1.
    """

    def __init__(
        self,
        groups: list[GroupInfo],
        layout: Layout,
        flops: FlopsTable,
        dense_flops: float,
        score: str,
        normalisation: str,
        surrogate: Surrogate,
        controller: Controller,
        divisor: int = 1,
    ) -> None:
        sizes = [g.size for g in groups]
        super().__init__(sizes, controller.initial_state(len(groups)))
        self.divisor = divisor
        self.groups, self.dense_flops = groups, dense_flops
        self.layout, self.flops = layout, flops
        self.score = SCORES[score]
        self.normalise = NORMALISATIONS[normalisation]
        self.surrogate, self.controller = surrogate, controller
        self.places: list[MaskPlace] = []
        # Of the image at which FLOPs were counted, where that is known.
        self.input_shape: tuple[int, ...] | None = None

    @property
    def ratio(self) -> float:
        """Current fraction of the dense FLOPs."""
        return float(self._ratio(self.mask[:-1]))

    @property
    def target(self) -> float:
        """Current target of the constraint, as a fraction."""
        if self.phase == DENSE:
            return 1.0
        return self._schedule().at(int(self.progress[1]))

    def keep_ratios(self) -> dict[str, float]:
        """Returns the share of kept channels of every group."""
        sizes = torch.tensor([g.size for g in self.groups])
        kept = sizes.new_zeros(len(sizes)).index_add(
            0, self.group[:-1].cpu(), self.mask[:-1].long().cpu()
        )
        shares = (kept / sizes).tolist()
        return dict(zip([g.name for g in self.groups], shares, strict=True))

    def signal(self) -> list[float]:
        """How much more than the others every group resists."""
        return self.controller.signal(self.state).tolist()

    def begin(self, target_flops: float, steps: int) -> None:
        """Starts the pruning phase.

        Args:
            target_flops (float): Asked fraction of the dense FLOPs.
            steps (int): Length of the phase in optimizer steps.

        Raises:
            PruningError: If the target cannot be reached.
        """
        schedule = Schedule(check_target(target_flops), steps)
        self.check_reachable(target_flops)
        self.progress.copy_(
            torch.tensor([PRUNING, 0, schedule.steps, schedule.target])
        )
        self.active = True
        self._forget()
        self.refresh(first=True)

    def check_reachable(self, target_flops: float) -> None:
        """Raises PruningError if a target lies below what must be kept."""
        lowest = reachable(
            self.flops,
            torch.zeros(self.total, device=self.mask.device),
            self.group[:-1],
            self._floors(),
            self.divisor,
        )
        lowest /= self.dense_flops
        if target_flops < lowest:
            raise PruningError(
                f'target_flops={target_flops} lies below the reachable '
                f'minimum of {lowest:.4f}: the rest of the FLOPs belongs to '
                'layers that are not prunable or to bypasses. Raise the '
                'target or widen the scope'
            )

    def loss(self) -> Tensor:
        """Returns the FLOPs penalty, to be added to the task loss.

        Its gradient goes to the thresholds alone. Zero outside the pruning
        phase.
        """
        if self.phase != PRUNING:
            return torch.zeros((), device=self.threshold.device)
        ratio = self._learned_ratio(self.threshold)
        return penalty(ratio, self.target).float()

    @torch.no_grad()
    def step(self, loss_scale: float = 1.0) -> None:
        """Moves the thresholds; call it after ``optimizer.step()``.

        The last step of the phase fixes the masks within the budget.

        Args:
            loss_scale (float): Factor on the losses, as a gradient scaler
                applies it. Defaults to 1.

        Raises:
            PruningError: If importance scores are not finite.
        """
        if self.phase != PRUNING:
            self._forget()
            return
        self._move_thresholds(loss_scale)
        self.progress[1] += 1
        self.refresh()
        if self.progress[1] >= self.progress[2]:
            self.finish()

    def _move_thresholds(self, loss_scale: float) -> None:
        if self.threshold.grad is None:
            return
        gate = self.gate.grad
        if gate is None:  # the FLOPs loss alone
            gate = torch.zeros_like(self.gate)
        self._forget()
        gate = _mean_over_ranks(gate / loss_scale)[:-1]
        if not gate.isfinite().all():
            return
        ratio, direction = self._flops_direction()
        margin = Margin(
            gate,
            self.slope[:-1],
            self.mask[:-1],
            self.group[:-1],
            direction,
        )
        pull = penalty_slope(ratio, self.target)
        self.threshold.add_(
            self.controller.step(
                margin, pull, self.state, int(self.progress[2])
            )
        )

    @torch.enable_grad()
    def _flops_direction(self) -> tuple[float, Tensor]:
        """The ratio, and gradient of the log FLOPs by the thresholds."""
        threshold = self.threshold.detach().requires_grad_()
        ratio = self._learned_ratio(threshold)
        (gradient,) = torch.autograd.grad(ratio.log(), threshold)
        return float(ratio.detach()), gradient

    @torch.no_grad()
    def refresh(self, first: bool = False) -> None:
        """Computes scores, masks and slopes from the live weights.

        Args:
            first (bool): Whether to put the thresholds below all scores.
                Defaults to False.
        """
        self.scores.copy_(
            torch.cat(
                [
                    group_scores(g, self.score, self.normalise)
                    for g in self.groups
                ]
            )
        )
        if not self.scores.isfinite().all():
            report_non_finite(self.groups, self.score, int(self.progress[1]))
        group = self.group[:-1]
        extreme = self.threshold.new_zeros(len(self.groups))
        low = (
            extreme.scatter_reduce(
                0, group, self.scores, 'amin', include_self=False
            )
            - 0.99 * self.surrogate.width  # the slope at its very end may be 0
        )
        high = self._ceiling()
        bounded = (
            low
            if first
            else torch.minimum(torch.maximum(self.threshold, low), high)
        )
        self.threshold.copy_(bounded)
        margin = self.scores - self.threshold[group]
        self.mask[:-1] = margin > 0
        self.slope[:-1] = self.surrogate.slope(margin)

    def _ceiling(self) -> Tensor:
        """Highest thresholds that leave every group its floor."""
        below = torch.tensor(-torch.inf, device=self.scores.device)
        tops = []
        for scores, info in zip(
            self.scores.split([g.size for g in self.groups]),
            self.groups,
            strict=True,
        ):
            if info.floor == 0:
                tops.append(scores.max())
            else:
                best = scores.topk(info.floor).values[-1]
                tops.append(torch.nextafter(best, below))
        return torch.stack(tops)

    @torch.no_grad()
    def finish(self) -> None:
        """Ends the pruning phase: masks within the budget, then fixed.

        Raises:
            PruningError: If the phase has not begun.
        """
        if self.phase == DENSE:
            raise PruningError(
                'finish: the pruning phase has not begun; call begin first'
            )
        target = float(self.progress[3])
        margin = self.scores - self.threshold[self.group[:-1]]
        self.mask[:-1] = snap(
            self.flops,
            margin,
            self.group[:-1],
            self._floors(),
            target * self.dense_flops,
            self.divisor,
        )
        self.slope.zero_()
        self.progress[0] = FINISHED

    def plan(self) -> ChannelPlan:
        """Returns what the current masks keep, ready for ``shrink``."""
        mask = self.mask.cpu()
        sizes = [g.size for g in self.groups]
        parts = mask[:-1].split(sizes)
        return self.layout.plan(
            mask,
            dict(zip([g.name for g in self.groups], parts, strict=True)),
            {
                'dense': self.dense_flops,
                'pruned': self.ratio * self.dense_flops,
                'target': float(self.progress[3]),
            },
        )

    def _floors(self) -> list[int]:
        return [g.floor for g in self.groups]

    def _ratio(self, mask: Tensor) -> Tensor:
        total: Tensor = self.flops(mask)
        return total / self.dense_flops

    def _learned_ratio(self, threshold: Tensor) -> Tensor:
        """The ratio as a function of thresholds, by the surrogate."""
        mask = HardMask.apply(
            threshold, self.mask[:-1], self.slope[:-1], self.group[:-1]
        )
        return self._ratio(mask)

    def _schedule(self) -> Schedule:
        _, _, steps, target = self.progress.tolist()
        return Schedule(target, int(steps))

    def extra_repr(self) -> str:
        """Shows what is pruned."""
        return f'groups={len(self.groups)}, channels={self.total}'


def _mean_over_ranks(tensor: Tensor) -> Tensor:
    """Averages over the processes of a distributed run."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
        tensor = tensor / dist.get_world_size()
    return tensor
