# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The losses of a step, with what the teacher has to say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmlapp.core import Distillation, PruningError

from ..models.modes import mode_of
from ..models.prunable import LOSS
from ..training.compiled import Uncompiled
from .outputs import Outputs

PREFIX = 'loss_distillation_'


class DistilledLosses:
    """Adds the terms of a teacher to what a student's forward returns.

    Acts in training mode and in mode ``loss`` alone. ``parse_losses`` of
    MMEngine sums and logs every key with ``loss`` in it. Losses of the task
    are multiplied by the ``task_weight`` of all distillations; what a
    pruning method adds stays.

    The teacher is no child of the student: it is in none of its state
    dicts, copies and wrappers.

    Args:
        student (nn.Module): The model that is trained, not wrapped.
        teacher (nn.Module): A frozen model of the same forward.
        losses (Mapping[str, Distillation]): By name of the module whose
            outputs are compared.
        compiled (bool): Whether the training step is compiled, which this
            stays out of. Defaults to False.

    Attributes:
        steps (int): Forwards of the student to which a term was added.

    Raises:
        PruningError: If one of the two lacks a module.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        losses: Mapping[str, Distillation],
        compiled: bool = False,
    ) -> None:
        self.student, self.teacher, self.losses = student, teacher, losses
        self.steps = 0
        self._outputs = (
            Outputs(student, losses, 'the student', compiled),
            Outputs(teacher, losses, 'the teacher'),
        )
        # Before the forward, and behind it: hooks of the model, in which its
        # class and its state dict stay what they are.
        begin, add = self._begin, self._add
        if compiled:
            begin, add = Uncompiled(begin), Uncompiled(add)
        self._handles = (
            student.register_forward_pre_hook(begin, with_kwargs=True),
            student.register_forward_hook(add, with_kwargs=True),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> DistilledLosses:
        # Of a copy of the student, for which it does nothing.
        return self

    def remove(self) -> None:
        """Leaves the student as it was before."""
        for part in (*self._outputs, *self._handles):
            part.remove()

    def _concerns(self, module: nn.Module, args: Any, kwargs: Any) -> bool:
        return (
            # A copy of the student has these hooks, too.
            module is self.student
            and module.training
            and mode_of(args, kwargs) == 'loss'
        )

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._concerns(module, args, kwargs):
            self._outputs[0].begin()

    def _add(
        self, module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> dict[str, Any] | None:
        if not self._concerns(module, args, kwargs):
            return None
        terms = self.terms(self._outputs[0].end(), args, kwargs)
        # Asked after a step: a model may train past its forward.
        self.steps += 1
        added = {f'{PREFIX}{name}': term for name, term in terms.items()}
        return {**self._task(output), **added}

    def terms(
        self,
        found: Mapping[str, Sequence[Tensor]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> dict[str, Tensor]:
        """Returns what is added for a batch, by name of the module.

        Args:
            found (Mapping): What the modules of the student put out.
            args (tuple): Arguments of the student's forward.
            kwargs (dict): Those with a name.
        """
        expected = self.taught(args, kwargs)
        return {
            name: _term(name, loss, found[name], expected[name])
            for name, loss in self.losses.items()
        }

    @torch.no_grad()
    def taught(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, list[Tensor]]:
        """Runs the teacher on what the student was given.

        Args:
            args (tuple): Arguments of the student's forward.
            kwargs (dict): Those with a name.

        Returns:
            dict[str, list[Tensor]]: What its modules put out.
        """
        if len(args) > 2:  # forward(inputs, data_samples, mode)
            args = (*args[:2], 'tensor', *args[3:])
        else:
            kwargs = {**kwargs, 'mode': 'tensor'}
        return self._outputs[1].of(lambda: self.teacher(*args, **kwargs))

    def _task(self, losses: Mapping[str, Any]) -> dict[str, Any]:
        """The student's own losses, weighted."""
        # Each leaves the task its own share; together the product of them.
        weight = math.prod(loss.task_weight for loss in self.losses.values())
        return {
            key: _times(weight, value)
            if 'loss' in key and key != LOSS
            else value
            for key, value in losses.items()
        }


def _times(weight: float, loss: Any) -> Any:
    """A loss, or a list of those of every level, times a weight."""
    if isinstance(loss, Tensor):
        return weight * loss
    return [weight * each for each in loss]


def _term(
    name: str,
    loss: Distillation,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
) -> Tensor:
    """Mean over the levels of a module that puts out several tensors."""
    said = f'losses={name!r}'
    if len(student) != len(teacher) or not student:
        raise PruningError(
            f'{said}: the module puts out {len(student)} tensors in the '
            f'student and {len(teacher)} in the teacher, expected equally '
            'many and at least one. Name another module'
        )
    if not any(each.requires_grad for each in student):
        raise PruningError(
            f'{said}: no gradient flows through what the module puts out in '
            'the student, such as within activation checkpointing. Name '
            'another module'
        )
    try:
        terms = [
            loss.term(*pair) for pair in zip(student, teacher, strict=True)
        ]
    except PruningError as error:
        raise PruningError(f'{said}: {error}') from error
    return torch.stack(terms).mean()
