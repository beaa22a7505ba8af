# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The interface of a distillation: what a student learns from a teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..choices import Choices
from ..errors import PruningError

Network = TypeVar('Network', bound=nn.Module)


class Distillation(ABC):
    """A loss between what a student and its teacher compute.

    Attributes:
        task_weight (float): Factor on the loss of the task beside it.
            Defaults to 1.
    """

    task_weight: float = 1.0

    @abstractmethod
    def term(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the loss, with its weight, without that of the task.

        Args:
            student (Tensor): What the student computed, batch first.
            teacher (Tensor): What the teacher computed of the same batch;
                no gradient flows into it.

        Returns:
            Tensor: Scalar, float32 or wider.

        Raises:
            PruningError: If the two do not fit each other.
        """


DISTILLATIONS: Choices[Callable[..., Distillation]] = Choices(
    'distillation', Distillation
)
Entry = TypeVar('Entry', bound=Callable[..., Any])


def register_distillation(name: str) -> Callable[[Entry], Entry]:
    """Adds a distillation under a name that configs can use.

    Args:
        name (str): The name of a subclass of :class:`Distillation`.

    Examples:
        >>> @register_distillation('doc_l1')
        ... class L1(Distillation):
        ...     def term(self, student, teacher):
        ...         return (student - teacher.detach()).abs().mean()
    """

    def add(entry: Entry) -> Entry:
        DISTILLATIONS.register(name)(entry)
        return entry

    return add


def freeze(teacher: Network) -> Network:
    """Makes a network a teacher: evaluation mode, no gradients.

    Args:
        teacher (nn.Module): The network, changed in place.

    Returns:
        nn.Module: The network itself.

    Examples:
        >>> freeze(nn.Linear(2, 2)).training
        False
    """
    # Not chained: `eval` of some networks returns nothing.
    teacher.requires_grad_(False)
    teacher.eval()
    return teacher


def as_pair(
    student: Any, teacher: Any, said: str, remedy: str
) -> tuple[Tensor, Tensor]:
    """Returns both as tensors of one shape in which a loss can be computed.

    Half precision becomes float32, for sums of exponentials and squares
    leave its range; float64 stays.

    Args:
        student (Tensor): What the student computed.
        teacher (Tensor): What the teacher computed.
        said (str): What they are called, for the error text.
        remedy (str): What to do about shapes that differ.

    Raises:
        PruningError: If one is no tensor, the batch is empty, or the shapes
            differ.
    """
    for name, value in (('student', student), ('teacher', teacher)):
        if not isinstance(value, Tensor):
            raise PruningError(
                f'{name} {said}: expected a tensor, not {type(value).__name__}'
            )
    shapes = tuple(student.shape), tuple(teacher.shape)
    if shapes[0] != shapes[1]:
        raise PruningError(
            f'student {said} of shape {shapes[0]}, teacher {said} of shape '
            f'{shapes[1]}: {remedy}'
        )
    if student.ndim < 2 or not student.numel():
        raise PruningError(
            f'student {said} of shape {shapes[0]}: expected a batch, '
            '[N, channels, ...], that is not empty'
        )
    return _wide(student), _wide(teacher.detach())


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def log_probabilities(
    pair: Sequence[Tensor], temperature: float
) -> tuple[Tensor, Tensor]:
    """Returns the log-softmax of two logits, over their classes.

    Args:
        pair (Sequence[Tensor]): Logits, ``[N, K, ...]`` each.
        temperature (float): What they are divided by.
    """
    # Classes lie in dimension 1, [N, K, ...], for maps of logits too.
    first, second = (
        functional.log_softmax(logits / temperature, dim=1) for logits in pair
    )
    return first, second
