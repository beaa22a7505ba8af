# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The hook with which a model learns from a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmlapp.core import PruningError
from mmlapp.core.distillation import DISTILLATIONS
from mmlapp.registry import HOOKS

from ..checkpoints.random_state import same_random_numbers
from ..checkpoints.state import check_version
from ..hook_list import check_single
from ..training.parts import unwrap
from ..training.report import count_parameters
from ..training.step_cost import TeacherCost
from .dense import check_dense, find_dense, keep_dense
from .fits import check_fits, check_kept_widths
from .losses import DistilledLosses
from .teacher import Teacher, TeacherSource, read_teacher
from .teacher_cost import teacher_cost

KEY, VERSION = 'distillation', 1
LOSSES = {'head': 'logits'}


@HOOKS.register_module()
class Distiller(Hook):
    """Lets the model of a run learn from a frozen teacher.

    Adds terms to the losses of each training step, and changes nothing else:
    the model stays what it is, with its class and its state-dict keys, and
    so masks, narrowing, averages, wrappers, checkpoints and deployment know
    nothing of a teacher. Checkpoints have no weights of it, only a digest,
    by which a resumed run sees that it goes on with the same one.

    The teacher runs on what the data preprocessor made of a batch, mixed
    images (Mixup, CutMix) included, in evaluation mode, and only as far as
    the compared modules.

    Args:
        teacher (str or Mapping): ``checkpoint``, and ``config`` where it is
            not the dense model of the run's config, pruned or deployed; or
            ``dense`` for the run's own model at the begin of the pruning
            phase.
        losses (Mapping[str, str or Mapping]): By name of the module whose
            outputs are compared the distillation: ``logits``, ``mse``,
            ``channel_wise`` or a registered one. Defaults to the logits of
            ``head``.

    Attributes:
        running (DistilledLosses, optional): While there is a teacher.

    Raises:
        PruningError: If an argument lies outside its range.

    Examples:
        >>> from mmlapp.registry import HOOKS
        >>> hook = HOOKS.build(
        ...     dict(
        ...         type='mmlapp.Distiller',
        ...         teacher='dense',
        ...         losses=dict(neck=dict(type='channel_wise', weight=2.0)),
        ...     )
        ... )
        >>> sorted(hook.losses)
        ['neck']
    """

    # Before PruningHook, ABOVE_NORMAL, begins its phase.
    priority = 'HIGH'

    def __init__(
        self,
        teacher: str | Mapping[str, Any],
        losses: Mapping[str, Any] = LOSSES,
    ) -> None:
        self.source = TeacherSource.read(teacher)
        if not isinstance(losses, Mapping) or not losses:
            raise PruningError(
                f'losses={losses!r}: expected distillations by name of a '
                f'module, such as {LOSSES}'
            )
        self.losses = {
            name: DISTILLATIONS.build(loss) for name, loss in losses.items()
        }
        self.running: DistilledLosses | None = None
        self._teacher: Teacher | None = None
        self._begin: int | None = None
        self._loaded = False
        # Digest of the teacher of the checkpoint that the run goes on from.
        self._noted: str | None = None

    def teacher_cost(self, cfg: Mapping[str, Any]) -> TeacherCost:
        """Returns what the teacher adds to the cost of a run.

        Args:
            cfg (Mapping): Of the run.
        """
        return teacher_cost(self.source, cfg)

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Notes which teacher the run of a checkpoint had.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The loaded checkpoint.
        """
        # Of a whole model: weights of a part come by init_cfg, past hooks.
        self._loaded = True
        if runner._resume and KEY in checkpoint:
            check_version(KEY, checkpoint[KEY], VERSION)
            self._noted = checkpoint[KEY]['teacher']

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Notes the teacher, without its weights.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): The checkpoint to be saved.
        """
        if self._teacher is not None:
            checkpoint[KEY] = dict(
                version=VERSION, teacher=self._teacher.digest
            )

    def before_train(self, runner: Runner) -> None:
        """Builds the teacher and compares it with the model.

        Args:
            runner (Runner): The runner of the training process.

        Raises:
            PruningError: If the teacher is missing, does not fit or is
                another one than that of the resumed run.
        """
        check_single(runner, Distiller)
        # Of a training before, as where a runner trains twice.
        self._stop()
        # Building draws numbers; with a teacher the student is to draw those
        # that it would without.
        with same_random_numbers():
            check_kept_widths(unwrap(runner.model), self.losses)
            if not self.source.is_dense:
                self._start(runner, read_teacher(self.source, runner.cfg))
            elif self._noted is not None:
                self._start(runner, find_dense(runner))
            else:
                self._begin = check_dense(runner, self._loaded)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Takes the dense model for a teacher, when its time has come.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
        """
        # Not ==: a resumed run may begin behind it.
        if self._begin is not None and runner.iter >= self._begin:
            self._begin = None
            with same_random_numbers():
                self._start(runner, keep_dense(runner))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Refuses a model whose training step goes another way.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
            outputs (dict, optional): Losses. Defaults to None.

        Raises:
            PruningError: If the step was made without the teacher.
        """
        if self.running is not None and not self.running.steps:
            kind = type(self.running.student).__name__
            raise PruningError(
                f'the training step of {kind} does not call its forward in '
                "mode 'loss', where the terms of mmlapp.Distiller are added. "
                'Leave the hook out'
            )

    def after_train(self, runner: Runner) -> None:
        """Leaves the model as it was before.

        Args:
            runner (Runner): The runner of the training process.
        """
        self._stop()

    def _start(self, runner: Runner, teacher: Teacher) -> None:
        """Begins to teach."""
        if self._noted not in (None, teacher.digest):
            raise PruningError(
                'teacher: its weights are not those that the run of the '
                'checkpoint learned from. Resume with that teacher, or start '
                'a new run from its weights: load_from, without resume'
            )
        model = unwrap(runner.model)
        # Where the student is, and in its precision: both see the same images.
        own = next(p for p in model.parameters() if p.is_floating_point())
        teacher.model.to(own.device, own.dtype)
        data = getattr(runner.train_dataloader, 'dataset', None)
        known = getattr(data, 'metainfo', {})
        check_fits(model, teacher, self.losses, known.get('classes'))
        self._teacher = teacher
        self.running = self.losses_of(runner, model, teacher.model)
        runner.logger.info(
            f'Distillation: from iteration {runner.iter} on the model learns '
            f'from {type(teacher.model).__name__} of '
            f'{count_parameters(teacher.model):,} parameters, by '
            f'{", ".join(self.losses)}'
        )

    def losses_of(
        self, runner: Runner, student: nn.Module, teacher: nn.Module
    ) -> DistilledLosses:
        """Returns what adds the terms.

        Args:
            runner (Runner): The runner of the training process.
            student (nn.Module): Its model, not wrapped.
            teacher (nn.Module): The teacher.
        """
        compiled = bool(runner.cfg.get('compile'))
        return DistilledLosses(student, teacher, self.losses, compiled)

    def _stop(self) -> None:
        if self.running is not None:
            self.running.remove()
        self.running = self._teacher = None
