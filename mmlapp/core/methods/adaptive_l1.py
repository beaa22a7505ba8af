# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Gates that are learned under an L1 penalty, harder where more is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import PruningError
from ..numbers import check_number
from ..score.group_scores import score_name
from .base import register_method
from .fixed_order import FixedOrder

if TYPE_CHECKING:
    from ..pruner import Pruner

# Steps of the paper's training: 160 epochs of CIFAR-10 in batches of 64.
TRAINING = 160 * 782
# A gate that lives is not zero, for modules that look at what lives.
LEAST = 1e-6


@register_method('adaptive_l1')
class AdaptiveL1(FixedOrder):
    r"""After SWP (2009.14410) and multi-granularity pruning, formula ours.

    A filter skeleton I, one number for each part that can be removed, begins
    at one and multiplies the weights, in training and evaluation. After each
    step of the optimizer

    .. math:: I \leftarrow I - \eta \Big(\frac{\partial L}{\partial I} +
              \alpha_g \operatorname{sign} I\Big), \qquad
              \alpha_g = \alpha\,\frac{T_0}{T}\,\frac{a_g}{\overline a}

    with the share :math:`a_g` of group g that lives, :math:`\overline a` its
    mean over groups and the length T of the phase in steps: the less of a
    group is left, the weaker the pull on the rest. SWP has the same
    :math:`\alpha` everywhere; :math:`T_0` is the length of its training, so
    that a phase of any length exerts the same pull. What adapts in
    multi-granularity pruning (DOI 10.12263/DZXB.20210844), and how, is not
    known to us.

    What falls to the threshold or below is removed for good, and so are the
    smallest entries of all groups as far as the schedule of the budget asks
    for it. At the end the weights are multiplied by I once, so that the
    network stays what it was.

    Args:
        alpha (float): :math:`\alpha`, the penalty; the paper's for CIFAR-10
            by default, 1e-5.
        threshold (float): Below it nothing lives; the paper's by default,
            0.01.
        lr (float): :math:`\eta`. Defaults to 0.1, the paper's first one.

    Raises:
        PruningError: If an argument lies outside its range.

    Examples:
        >>> from mmlapp.core import attach
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3)
        ... )
        >>> images = torch.rand(1, 3, 9, 9)
        >>> pruner = attach(
        ...     net,
        ...     images,
        ...     unit='stripes',
        ...     method='adaptive_l1',
        ...     normalisation='none',
        ... )
        >>> pruner.begin({'flops': 0.5}, steps=4)
        >>> for _ in range(4):
        ...     net(images).square().mean().backward()
        ...     pruner.step()
        >>> sorted(pruner.keep_ratios())
        ['0', '1']
        >>> 0.45 < pruner.ratios()['flops'] <= 0.5
        True
    """

    skeleton: Tensor
    uses_gradient = True
    relaxes_evaluation = True

    def __init__(
        self, alpha: float = 1e-5, threshold: float = 0.01, lr: float = 0.1
    ) -> None:
        super().__init__()
        name = 'method adaptive_l1'
        check_number(f'{name} alpha', alpha, least=0)
        check_number(f'{name} threshold', threshold, least=0, most=1)
        check_number(f'{name} lr', lr, above=0)
        if threshold == 1:
            raise PruningError(
                f'{name} threshold={threshold!r}: the skeleton begins at one, '
                'and nothing would live; expected a number less than 1'
            )
        self.alpha, self.threshold, self.lr = alpha, threshold, lr

    def setup(self, pruner: Pruner) -> None:
        """Makes the skeleton."""
        _check_settings(pruner)
        self.register_buffer('skeleton', torch.ones_like(pruner.scores))

    def begin(self, pruner: Pruner) -> Tensor:
        """All parts live, with ones in the skeleton."""
        self.skeleton.fill_(1)
        return super().begin(pruner)

    def relaxed(self, pruner: Pruner) -> Tensor:
        """Returns the skeleton of what lives, ``[channels]``."""
        # The gate is 0 or 1: what was removed stays away.
        return self.skeleton * pruner.gate.detach()

    def step(self, pruner: Pruner) -> Tensor:
        """Learns the skeleton, and removes what is small for good."""
        living = pruner.mask
        learned = self.learned(pruner)
        self.skeleton.copy_(torch.where(living, learned, self.skeleton))
        # The best of a group stay, however small, up to its floor.
        rank = pruner.parts.ranks(self.ranking(pruner), descending=True)
        held = rank < pruner.least[pruner.group]
        large = living & (self.skeleton > self.threshold)
        # What the schedule keeps, but for what is small and not held.
        return super().step(pruner) * (large | held)

    def learned(self, pruner: Pruner) -> Tensor:
        """Returns the skeleton after a step of its own, ``[channels]``.

        Args:
            pruner (Pruner): Of the network.
        """
        # No gradient where training in half precision skipped a step.
        gradient = pruner.gradient
        if gradient is None:
            gradient = torch.zeros_like(self.skeleton)
        pull = self.pull(pruner)[pruner.group] * self.skeleton.sign()
        return (self.skeleton - self.lr * (gradient + pull)).clamp_min(LEAST)

    def pull(self, pruner: Pruner) -> Tensor:
        r"""Returns :math:`\alpha_g`, ``[groups]``.

        Args:
            pruner (Pruner): Of the network.
        """
        living = pruner.parts.mean(pruner.mask.to(self.skeleton.dtype))
        scale = self.alpha * TRAINING / pruner.progress.steps
        # a_g over its mean: the mean pull stays alpha T_0 / T.
        return scale * living / living.mean()

    def ranking(self, pruner: Pruner) -> Tensor:
        """Ranks by the skeleton; what was removed comes behind the rest."""
        away = 1 + self.skeleton.max()
        return torch.where(
            pruner.mask, self.skeleton, self.skeleton - away
        ).detach()

    def finish(self, pruner: Pruner) -> None:
        """Multiplies the weights by the skeleton."""
        pruner.multiply(self.skeleton)

    def by_group(self, pruner: Pruner) -> dict[str, Tensor]:
        """Shows the mean of the skeleton over what lives."""
        living = pruner.mask.to(self.skeleton.dtype)
        total = pruner.parts.sum(self.skeleton * living)
        return {'skeleton': total / pruner.parts.sum(living).clamp_min(1)}


def _check_settings(pruner: Pruner) -> None:
    """Refuses what would not decide, or something else."""
    name = score_name(pruner.scorer.score)
    if name != 'l2':
        raise PruningError(
            f'score={name}: method adaptive_l1 ranks by its skeleton. Leave '
            'score out'
        )
    chosen = pruner.scorer.normalisation
    if chosen != 'none':
        raise PruningError(
            f'normalisation={chosen!r}: method adaptive_l1 compares its '
            "skeleton over all groups as it is. Set normalisation='none'"
        )
