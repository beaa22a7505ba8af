# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A phase that ends early, once the kept channels no longer change."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..choices import Choices
from ..errors import PruningError
from ..numbers import check_number

# Epochs over which the kept channels must stay the same.
EPOCHS = 2
# Of what a target allows: where whole channels are dear no network is nearer.
NEAR = 1.05
# What it adds to a state dict.
RULE, KEPT = 'stable_end', 'kept_sets'


@dataclass(frozen=True)
class StableEnd:
    r"""Ends a phase when the kept channels were the same over two epochs.

    The same are two networks by the mean Jaccard index of their groups,

    .. math:: J(A, B) = \frac{1}{G} \sum_g
              \frac{|A_g \cap B_g|}{|A_g \cup B_g|},

    after OCSPruner (arXiv 2501.13439). At the end of every epoch of the
    phase the kept channels are compared with those one and two epochs ago;
    the phase ends if both indices are at least ``similarity``, all targets
    are met, up to a twentieth, and no channel shrinks any more. The exact
    budget follows as ever.

    Args:
        epoch (int): Length of an epoch in steps of the optimizer.
        similarity (float): Least index, in (0, 1]. Defaults to 0.999.

    Raises:
        PruningError: If an argument lies outside its range.

    Examples:
        >>> StableEnd(epoch=100)
        StableEnd(epoch=100, similarity=0.999)
    """

    epoch: int
    similarity: float = 0.999

    def __post_init__(self) -> None:
        check_number('end epoch', self.epoch, least=1, whole=True)
        check_number('end similarity', self.similarity, above=0, most=1)

    def check(self, steps: int) -> None:
        """Refuses a phase that is over before it could end early.

        Args:
            steps (int): Its length.

        Raises:
            PruningError: With both lengths.
        """
        # Kept channels are noted EPOCHS + 1 times before they are compared.
        if steps <= (needed := (EPOCHS + 1) * self.epoch):
            raise PruningError(
                f'end=stable with epochs of {self.epoch} steps: a phase of '
                f'{steps} steps cannot end earlier, for the kept channels are '
                f'first compared after {needed}. Make the phase longer, or '
                'leave end out'
            )


ENDS: Choices[type[StableEnd]] = Choices('end', StableEnd)
ENDS.register('stable')(StableEnd)


@dataclass(frozen=True)
class Stability:
    """What is known of a phase that may end early.

    Args:
        end (StableEnd): When it ends.
        kept (Tensor): Kept channels at the last ends of epochs, the newest
            last, bool ``[channels, epochs]``, on the CPU.
    """

    end: StableEnd
    kept: Tensor

    @classmethod
    def begin(cls, end: StableEnd, channels: int) -> Stability:
        """Returns what is known before the first step: nothing.

        Args:
            end (StableEnd): When the phase ends.
            channels (int): Of all groups.
        """
        return cls(end, torch.zeros(channels, 0, dtype=torch.bool))

    def noted(self, mask: Tensor) -> Stability:
        """Returns itself with the kept channels of one more epoch.

        Args:
            mask (Tensor): Which channels live, bool ``[channels]``.
        """
        # [channels, epochs] and [channels, 1]; of more than are compared the
        # oldest goes.
        kept = torch.cat([self.kept, mask.cpu()[:, None]], dim=1)
        return replace(self, kept=kept[:, -(EPOCHS + 1) :])

    def similarity(self, sizes: list[int]) -> float | None:
        """Returns the least index of the last epochs.

        Args:
            sizes (list[int]): Channels of every group.

        Returns:
            float or None: None as long as too few epochs are over.
        """
        if self.kept.shape[1] <= EPOCHS:
            return None
        *former, now = self.kept.unbind(1)
        return min(jaccard(now, other, sizes) for other in former)

    def is_stable(self, sizes: list[int]) -> bool:
        """Whether the kept channels were the same over the last epochs.

        Args:
            sizes (list[int]): Channels of every group.
        """
        found = self.similarity(sizes)
        return found is not None and found >= self.end.similarity

    def to_tensors(self) -> dict[str, Tensor]:
        """Returns what a state dict can hold, by name."""
        rule = [self.end.epoch, self.end.similarity]
        return {RULE: torch.tensor(rule, dtype=torch.float64), KEPT: self.kept}

    @classmethod
    def from_tensors(cls, rule: Tensor, kept: Tensor) -> Stability:
        """Reads what :meth:`to_tensors` made.

        Args:
            rule (Tensor): Epoch and similarity, ``[2]``.
            kept (Tensor): Kept channels, ``[channels, epochs]``.
        """
        epoch, similarity = rule.tolist()
        # A copy: what was loaded belongs to the checkpoint.
        return cls(
            StableEnd(int(epoch), similarity), kept.bool().cpu().clone()
        )


def jaccard(one: Tensor, other: Tensor, sizes: list[int]) -> float:
    """Mean Jaccard index of two networks over their groups.

    Args:
        one (Tensor): Kept channels, bool ``[channels]``.
        other (Tensor): Those of the other, likewise.
        sizes (list[int]): Channels of every group.

    Examples:
        >>> one = torch.tensor([1, 1, 0, 1, 0]).bool()
        >>> jaccard(one, torch.tensor([1, 0, 0, 1, 0]).bool(), [3, 2])
        0.75
    """
    found = []
    for a, b in zip(one.split(sizes), other.split(sizes), strict=True):
        # A group that is empty in both is the same in both.
        either = int((a | b).sum())
        found.append(int((a & b).sum()) / either if either else 1.0)
    return sum(found) / len(found)
