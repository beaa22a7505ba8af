# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""LAPP: one learnable threshold per channel group (arXiv 2309.14157)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ...errors import PruningWarning
from ..base import Method, register_method
from .surrogates import SURROGATES, Surrogate
from .thresholds import HardMask
from .update import UPDATES, Update

if TYPE_CHECKING:
    from ...pruner import Pruner

UNHEARD = (
    'in the first {count} steps of the pruning phase the task loss had no '
    'gradient by the channels of {names}: they are kept whole as long as the '
    'budget allows. Does the loss depend on these layers, and is '
    'loss.backward() called before pruner.step()?'
)


@register_method('lapp')
class LAPP(Method):
    r"""Layer Adaptive Progressive Pruning, an independent reconstruction.

    Channel i of group g lives if its score exceeds the threshold of the
    group, :math:`m_i = 1[s_i > t_g]`. Thresholds follow the task loss and
    the constraint on the cost by one of two rules; ``docs/method.md`` has
    the derivation of both.

    Args:
        update (str or Mapping): Rule of the thresholds, with its settings:
            ``balance`` (:class:`Balance`), a controller that weighs how much
            the task loss changes per unit of cost, or ``gradient``
            (:class:`Gradient`), both losses by autograd. Defaults to
            ``balance``.
        surrogate (str or Mapping): Smooth stand-in for the step:
            ``sigmoid``, ``longtail`` or ``clipped``, with its ``width``.
            Defaults to ``sigmoid``.

    Raises:
        PruningError: If a name or a setting is unknown.

    Examples:
        >>> import torch
        >>> from mmlapp.core import attach
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3)
        ... )
        >>> pruner = attach(
        ...     net,
        ...     torch.rand(1, 3, 9, 9),
        ...     method=LAPP(update=dict(type='balance', task_weight=0.5)),
        ... )
        >>> pruner.method.threshold.shape
        torch.Size([1])
    """

    threshold: Tensor
    slope: Tensor
    heard: Tensor
    uses_gradient = True
    # Early in training streams and chains look worth less than they are.
    min_keep = 'near_uniform'
    choices: ClassVar = {'update': UPDATES, 'surrogate': SURROGATES}

    def __init__(
        self,
        update: str | Mapping[str, Any] | Update = 'balance',
        surrogate: str | Mapping[str, Any] | Surrogate = 'sigmoid',
    ) -> None:
        super().__init__()
        self.surrogate: Surrogate = SURROGATES.build(surrogate)
        self.update: Update = UPDATES.build(update)

    @property
    def adds_loss(self) -> bool:  # type: ignore[override]
        """Whether the thresholds learn by a part of the loss."""
        return self.update.adds_loss

    def setup(self, pruner: Pruner) -> None:
        """Makes a threshold per group and a slope per channel."""
        self.register_buffer('threshold', torch.zeros(len(pruner.groups)))
        self.register_buffer('slope', torch.zeros_like(pruner.scores))
        # Which groups the task loss has said anything about, [groups].
        heard = torch.zeros(len(pruner.groups), dtype=torch.bool)
        self.register_buffer('heard', heard)
        self.update.setup(self)

    @torch.no_grad()
    def begin(self, pruner: Pruner) -> Tensor:
        """Puts every threshold below all scores of its group."""
        self.threshold.grad = None
        self.threshold.copy_(self.bounds(pruner)[0])
        self.heard.zero_()
        self.update.begin()
        return self._gate(pruner)

    def loss(self, pruner: Pruner) -> Tensor:
        """Returns what the rule adds to the task loss."""
        return self.update.loss(self, pruner)

    @torch.no_grad()
    def step(self, pruner: Pruner) -> Tensor:
        """Moves the thresholds, then compares the scores with them."""
        # Of the scores alone, which nothing below changes.
        low, high = self.bounds(pruner)
        # First: gradient, mask and slopes belong to the forward that is over.
        # `_gate` then notes those of the next one.
        if pruner.gradient is not None:
            self._listen(pruner, pruner.gradient)
            self.update.move(self, pruner, (low, high))
        self.threshold.grad = None
        self._report_unheard(pruner)
        # One surrogate width away from the scores the slope may be zero: no
        # threshold gets stuck there, and each leaves its group the floor.
        self.threshold.copy_(
            torch.minimum(torch.maximum(self.threshold, low), high)
        )
        return self._gate(pruner)

    def bounds(self, pruner: Pruner) -> tuple[Tensor, Tensor]:
        """Returns the range of the thresholds, each ``[groups]``.

        Args:
            pruner (Pruner): Of the network.
        """
        parts = pruner.parts
        # Scores of every group, the largest first; [channels].
        scores = pruner.scores[parts.order(pruner.scores, descending=True)]
        least = parts.at(scores, parts.count - 1)
        best = parts.at(scores, (pruner.least - 1).clamp_min(0))
        # A channel lives if score > threshold: at the largest score none
        # does, just below the floor-th best one the best `floor` do.
        below = torch.nextafter(best, torch.full_like(best, -torch.inf))
        high = torch.where(pruner.least == 0, best, below)
        # Just below all scores the slope at its very end may be 0.
        return least - 0.99 * self.surrogate.width, high

    def ranking(self, pruner: Pruner) -> Tensor:
        """Returns how far each score lies above its threshold."""
        # [groups] -> [channels]
        return pruner.scores - self.threshold.detach()[pruner.group]

    def finish(self, pruner: Pruner) -> None:
        """Nothing moves any more."""
        self.slope.zero_()

    def by_group(self, pruner: Pruner) -> dict[str, Tensor]:
        """Shows the thresholds."""
        return {'threshold': self.threshold.detach()}

    def learned_ratio(
        self, pruner: Pruner, cost: str, threshold: Tensor
    ) -> Tensor:
        """Ratio of a cost as a function of thresholds, by the surrogate.

        Args:
            pruner (Pruner): Of the network.
            cost (str): Name of the cost.
            threshold (Tensor): Where the thresholds are, ``[groups]``.
        """
        # Value at the mask as it is, derivative by the slopes around it.
        mask = HardMask.apply(threshold, pruner.mask, self.slope, pruner.parts)
        return pruner.cost(cost).ratio(mask)

    def _listen(self, pruner: Pruner, gradient: Tensor) -> None:
        """Notes which groups the task loss has a gradient by."""
        # [channels] -> [groups]: how many channels of each have one.
        self.heard |= pruner.parts.sum((gradient != 0).long()) > 0

    def _report_unheard(self, pruner: Pruner) -> None:
        """Warns, once in a phase, of groups without any gradient so far."""
        done, steps = pruner.progress.done, pruner.progress.steps
        if done != max(10, steps // 10):
            return
        heard = self.heard.tolist()
        names = [
            g.name for g, h in zip(pruner.groups, heard, strict=True) if not h
        ]
        if names:
            warnings.warn(
                UNHEARD.format(count=done, names=', '.join(names)),
                PruningWarning,
                stacklevel=2,
            )

    def _gate(self, pruner: Pruner) -> Tensor:
        """The mask; notes the slopes that belong to it."""
        margin = self.ranking(pruner)
        self.slope.copy_(self.surrogate.slope(margin))
        return (margin > 0).to(self.slope.dtype)
