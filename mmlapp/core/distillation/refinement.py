# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Labels that are learned together with the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import PruningError
from ..numbers import check_number
from .base import as_pair, log_probabilities

# Of CURL's second stage.
ALPHA, TEMPERATURE, LABEL_LR = 0.7, 1.0, 1.0
WHOLE = torch.int64, torch.int32
OTHER_CLASSES = 'pseudo-logits are of other classes than the student'


class LabelRefinement(nn.Module):
    r"""Learned pseudo-logits of every training image (CURL, arXiv 1911.08114).

    Image i owns a vector :math:`d_i`, at first the teacher's logits. With p
    the softmax of the student's logits s and q that of d, both at T, the loss
    of a batch of N images is

    .. math:: \frac{\alpha T^2}{N} \sum_n \mathrm{KL}(p_n \,\|\, q_n)
              + (1 - \alpha)\, \mathrm{CE}(s, y),

    and after it every d of the batch moves against its gradient,

    .. math:: d_n \leftarrow d_n - \eta\, \frac{\alpha T}{N} (q_n - p_n).

    The vectors stay on the CPU, as entries of the state dict; the gradient is
    that of the formula, which neither loss scaling nor accumulation changes.

    Args:
        images (int): Number of images.
        classes (int): Number of classes.
        alpha (float): Weight of the pseudo-labels, in (0, 1]. Defaults to
            0.7.
        temperature (float): T, above 0. Defaults to 1.
        label_lr (float): :math:`\eta`, at least 0. Defaults to 1.

    Raises:
        PruningError: If an argument lies outside its range.

    Examples:
        >>> student, teacher = torch.randn(2, 3), torch.randn(2, 3)
        >>> refine = LabelRefinement(images=10, classes=3)
        >>> indices, labels = torch.tensor([4, 7]), torch.tensor([0, 2])
        >>> refine.initialise(indices, teacher)
        >>> loss = refine(student.requires_grad_(), indices, labels)
        >>> loss.backward()
        >>> refine.step()
    """

    logits: Tensor
    known: Tensor

    def __init__(
        self,
        images: int,
        classes: int,
        alpha: float = ALPHA,
        temperature: float = TEMPERATURE,
        label_lr: float = LABEL_LR,
    ) -> None:
        super().__init__()
        check_number('images', images, least=1, whole=True)
        check_number('classes', classes, least=2, whole=True)
        self.alpha = float(check_number('alpha', alpha, above=0, most=1))
        self.temperature = float(
            check_number('temperature', temperature, above=0)
        )
        self.label_lr = float(check_number('label_lr', label_lr, least=0))
        self.task_weight = 1 - self.alpha
        self.register_buffer('logits', torch.zeros(images, classes))
        self.register_buffer('known', torch.zeros(images, dtype=torch.bool))
        self._move: tuple[Tensor, Tensor] | None = None

    def knows(self, indices: Tensor) -> bool:
        """Whether all images of a batch have their first pseudo-logits.

        Args:
            indices (Tensor): Of the images, ``[N]``.
        """
        return bool(self.known[self._checked(indices)].all())

    @torch.no_grad()
    def initialise(self, indices: Tensor, logits: Tensor) -> None:
        """Gives images that have none their first pseudo-logits.

        Args:
            indices (Tensor): Of the images, ``[N]``; those that have some
                keep them, and of one that is there twice the first counts.
            logits (Tensor): Of the teacher, ``[N, K]``.

        Raises:
            PruningError: For other classes, or an index out of range.
        """
        self._check_shape(logits, indices)
        # At once: each transfer from a GPU waits for it.
        indices, logits = self._checked(indices), logits.to(self.logits)
        # Backwards: of several values for one row the last is written.
        new = (~self.known[indices]).nonzero()[:, 0].flip(0)
        for row in new.tolist():
            self.logits[indices[row]] = logits[row]
        self.known[indices] = True

    def forward(
        self, student: Tensor, indices: Tensor, labels: Tensor
    ) -> Tensor:
        """Returns the whole loss, of labels and pseudo-labels.

        Args:
            student (Tensor): Logits, ``[N, K]``.
            indices (Tensor): Of the images, ``[N]``.
            labels (Tensor): Indices of classes, ``[N]``, or probabilities.

        Raises:
            PruningError: See :meth:`term`.
        """
        term = self.term(student, indices)
        task = functional.cross_entropy(student.to(term.dtype), labels)
        return term + self.task_weight * task

    def term(self, student: Tensor, indices: Tensor) -> Tensor:
        """Returns the part of the pseudo-labels alone, with its weight.

        Args:
            student (Tensor): Logits, ``[N, K]``.
            indices (Tensor): Of the images, ``[N]``.

        Raises:
            PruningError: If an image has no pseudo-logits yet, for other
                classes, or if the step after the last batch is missing.
        """
        if self._move is not None:
            raise PruningError(
                'LabelRefinement: step() was not called after the last batch, '
                'whose pseudo-logits would never move'
            )
        self._check_shape(student, indices)
        if not self.knows(indices):
            raise PruningError(
                'LabelRefinement: an image of the batch has no pseudo-logits '
                'yet. Call initialise(indices, logits of the teacher) before'
            )
        indices = self._checked(indices)
        rows = self.logits[indices].to(student.device)
        pair = as_pair(student, rows, 'logits', OTHER_CLASSES)
        log_p, log_q = log_probabilities(pair, self.temperature)
        # sum_k p_k (log p_k - log q_k): [N, K] -> [N] -> [].
        divergence = functional.kl_div(
            log_q, log_p, reduction='batchmean', log_target=True
        )
        # d/dd of T^2 KL(p || q) with q = softmax(d / T): T^2 (q - p) / T.
        slope = (log_q.exp() - log_p.exp()).detach() / len(indices)
        # Kept until the step: the whole batch is compared with the labels as
        # they were.
        self._move = indices, -self.alpha * self.temperature * slope
        return self.alpha * self.temperature**2 * divergence

    def step(self) -> None:
        """Moves the pseudo-logits of the last batch; without one, nothing."""
        move = self.take_move()
        if move is not None:
            self.move(*move)

    def take_move(self) -> tuple[Tensor, Tensor] | None:
        """Returns what :meth:`step` would do, and does nothing then.

        Returns:
            tuple[Tensor, Tensor] or None: Indices ``[N]`` and the negative
            gradients ``[N, K]`` of the last batch, where the pseudo-logits
            are; for :meth:`move`.
        """
        move, self._move = self._move, None
        return None if move is None else (move[0], move[1].to(self.logits))

    @torch.no_grad()
    def move(self, indices: Tensor, slopes: Tensor) -> None:
        """Moves pseudo-logits along negative gradients.

        Args:
            indices (Tensor): Of images, ``[N]``; one that is there twice
                moves by both.
            slopes (Tensor): ``[N, K]``.
        """
        steps = self.label_lr * slopes.to(self.logits)
        # Rows that come twice get both; an assignment would keep one.
        self.logits.index_add_(0, self._checked(indices), steps)

    def _checked(self, indices: Tensor) -> Tensor:
        kind = getattr(indices, 'dtype', type(indices).__name__)
        if kind not in WHOLE:
            raise PruningError(
                f'LabelRefinement: indices={indices!r} of {kind}: expected '
                'whole numbers, one for each image, such as '
                'torch.tensor([4, 7])'
            )
        indices = indices.to(self.known.device)
        count = len(self.known)
        if len(indices) and not 0 <= indices.min() <= indices.max() < count:
            raise PruningError(
                f'LabelRefinement: indices from {int(indices.min())} to '
                f'{int(indices.max())} of images={count}. Give the number of '
                'images of the whole training set'
            )
        return indices

    def _check_shape(self, logits: Tensor, indices: Tensor) -> None:
        expected = len(indices), self.logits.shape[1]
        if tuple(logits.shape) != expected:
            raise PruningError(
                f'LabelRefinement: logits of shape {tuple(logits.shape)}, '
                f'expected {expected}, with an index for each image and '
                f'classes={expected[1]}'
            )
