# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Distillation of the logits of a classifier."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..errors import PruningError
from ..numbers import check_number
from .base import (
    Distillation,
    as_pair,
    log_probabilities,
    register_distillation,
)

# Of TAS (arXiv 1905.09717), with which ResNet-20 lost nothing at 55 %.
ALPHA, TEMPERATURE = 0.9, 4.0
OTHER_CLASSES = (
    'the two must tell the same classes apart, in the same order. Give the '
    'student a teacher that was trained on its classes'
)


@register_distillation('logits')
class LogitDistillation(Distillation):
    r"""Soft targets of a teacher beside the labels (arXiv 1503.02531).

    .. math:: \alpha T^2\, \mathrm{KL}\bigl(\mathrm{softmax}(t / T) \,\|\,
              \mathrm{softmax}(s / T)\bigr)
              + (1 - \alpha)\, \mathrm{CE}(s, y),

    with the student's logits s, the teacher's t and the labels y, averaged
    over the batch. With :math:`T^2` the gradient is of the same size at
    every temperature. Computed in float32 at least, also under autocast.

    Args:
        alpha (float): Weight of the teacher, in (0, 1]. Defaults to 0.9.
        temperature (float): T, above 0. Defaults to 4.

    Raises:
        PruningError: If an argument lies outside its range.

    Examples:
        >>> import torch
        >>> from mmlapp.core.distillation import freeze
        >>> student, teacher = torch.nn.Linear(8, 3), torch.nn.Linear(8, 3)
        >>> teacher = freeze(teacher)
        >>> distill = LogitDistillation(alpha=0.9, temperature=4)
        >>> images, labels = torch.rand(2, 8), torch.tensor([0, 2])
        >>> loss = distill(student(images), teacher(images), labels)
        >>> loss.backward()
    """

    def __init__(
        self, alpha: float = ALPHA, temperature: float = TEMPERATURE
    ) -> None:
        self.alpha = float(check_number('alpha', alpha, above=0, most=1))
        self.temperature = float(
            check_number('temperature', temperature, above=0)
        )
        self.task_weight = 1 - self.alpha

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Returns the whole loss, of labels and teacher.

        Args:
            student (Tensor): Logits, ``[N, K]`` or ``[N, K, ...]``.
            teacher (Tensor): Logits of the same shape; no gradient flows
                into them.
            labels (Tensor, optional): Indices of classes, ``[N]`` or
                ``[N, ...]``, or probabilities of the shape of the logits, as
                mixup makes them. Defaults to None, with ``alpha=1`` alone.

        Raises:
            PruningError: If the logits do not fit each other, or labels are
                missing.
        """
        term = self.term(student, teacher)
        if labels is None and self.task_weight:
            raise PruningError(
                f'labels=None with alpha={self.alpha:g}: the labels weigh '
                f'{self.task_weight:g}. Give them, or set alpha=1'
            )
        if labels is None or not self.task_weight:
            return term
        # Not divided by T: labels are compared with the logits as they are.
        task = functional.cross_entropy(student.to(term.dtype), labels)
        return term + self.task_weight * task

    def term(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the part of the teacher alone, with its weight.

        Args:
            student (Tensor): Logits, ``[N, K]`` or ``[N, K, ...]``.
            teacher (Tensor): Logits of the same shape.

        Raises:
            PruningError: If the logits do not fit each other.
        """
        pair = as_pair(student, teacher, 'logits', OTHER_CLASSES)
        log_p, log_q = log_probabilities(pair, self.temperature)
        # sum_k q_k (log q_k - log p_k): [N, K, ...] -> [N, ...] -> [].
        divergence = functional.kl_div(
            log_p, log_q, reduction='none', log_target=True
        )
        # Not 'batchmean', which would divide the sum over positions by N
        # alone.
        mean = divergence.sum(dim=1).mean()
        return self.alpha * self.temperature**2 * mean
