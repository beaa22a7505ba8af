# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The hook that learns the labels of a run together with its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.runner import Runner
from torch import Tensor, nn

from mmlapp.core import LabelRefinement, PruningError
from mmlapp.core.distillation.refinement import ALPHA, LABEL_LR, TEMPERATURE
from mmlapp.registry import HOOKS

from ..checkpoints.state import check_version
from .distiller import Distiller
from .image_ids import image_ids, image_key
from .outputs import find_module
from .refined_losses import RefinedLosses

REFINED, REFINED_VERSION = 'label_refinement', 2
# Attribute of other data sets than MMEngine's that give each image a
# `sample_idx` below their length.
NUMBERED = 'numbers_images'


@HOOKS.register_module()
class LabelRefiner(Distiller):
    """Learns a soft label for every training image (CURL, arXiv 1911.08114).

    The second stage for small data sets, after distillation: the labels
    begin as the teacher's logits, of the view in which an image is first
    seen, and move against their gradient in every step. They are saved and
    resumed with the checkpoints, and equal on all processes.

    Args:
        teacher (str or Mapping): See :class:`Distiller`.
        module (str): Name of the module whose output is the logits.
            Defaults to ``head``.
        alpha (float): Weight of the learned labels, in (0, 1]; the losses of
            the task are multiplied by the rest. Defaults to 0.7.
        temperature (float): Of the softmax, above 0. Defaults to 1.
        label_lr (float): Learning rate of the labels. Defaults to 1.

    Raises:
        PruningError: If an argument lies outside its range.

    Examples:
        >>> from mmlapp.registry import HOOKS
        >>> hook = HOOKS.build(
        ...     dict(type='mmlapp.LabelRefiner', teacher='dense', alpha=0.5)
        ... )
        >>> hook.rates['alpha'], hook.losses['head'].task_weight
        (0.5, 0.5)
    """

    def __init__(
        self,
        teacher: str | Mapping[str, Any],
        module: str = 'head',
        alpha: float = ALPHA,
        temperature: float = TEMPERATURE,
        label_lr: float = LABEL_LR,
    ) -> None:
        if not isinstance(module, str):
            raise PruningError(
                f'module={module!r}: expected the name of a module'
            )
        rates = dict(alpha=alpha, temperature=temperature)
        super().__init__(teacher, {module: dict(type='logits', **rates)})
        self.module = module
        self.rates = {**rates, 'label_lr': label_lr}
        LabelRefinement(1, 2, **self.rates)  # checks the rates
        # Of the checkpoint, until the data set tells how many there are.
        self._noted_labels: Any = None
        # What every image is, [images]: labels are numbered as these are.
        self._ids: Tensor | None = None

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Notes the labels of a run that goes on.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The loaded checkpoint.
        """
        super().after_load_checkpoint(runner, checkpoint)
        # Weights alone begin a new run, whose labels begin anew.
        if runner._resume and REFINED in checkpoint:
            check_version(REFINED, checkpoint[REFINED], REFINED_VERSION)
            self._noted_labels = checkpoint[REFINED]

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Saves the labels.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): The checkpoint to be saved.
        """
        super().before_save_checkpoint(runner, checkpoint)
        if isinstance(self.running, RefinedLosses):
            checkpoint[REFINED] = dict(
                version=REFINED_VERSION,
                state=self.running.refinement.state_dict(),
                images=self._ids,
            )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Moves the labels of the batch.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
            outputs (dict, optional): Losses. Defaults to None.
        """
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if isinstance(self.running, RefinedLosses):
            self.running.step()

    def losses_of(
        self, runner: Runner, student: nn.Module, teacher: nn.Module
    ) -> RefinedLosses:
        """Returns what adds the term of the labels.

        Args:
            runner (Runner): The runner.
            student (nn.Module): The model that learns.
            teacher (nn.Module): Its teacher.

        Raises:
            PruningError: If images are mixed or not numbered, the module is
                no head of a classifier, or the labels of the checkpoint are
                those of other images.
        """
        _check_mixing(student)
        data = _numbering(runner.train_dataloader.dataset)
        # Not the length of what repeats it: every image has one label.
        images = len(data)
        head = find_module(student, self.module, 'the student')
        classes = getattr(head, 'num_classes', None)
        if classes is None:
            raise PruningError(
                f'module={self.module!r}: {type(head).__name__} has no '
                'num_classes. Name the head of a classifier'
            )
        refinement = LabelRefinement(images, classes, **self.rates)
        self._ids = image_ids(data)
        self._load(refinement, data)
        size = refinement.logits.numel() * refinement.logits.element_size()
        runner.logger.info(
            f'Label refinement: {images:,} images of {classes} classes, '
            f'{size / 1e6:.1f} MB in every checkpoint'
        )
        compiled = bool(runner.cfg.get('compile'))
        return RefinedLosses(
            student, teacher, self.module, refinement, compiled
        )

    def _load(self, refinement: LabelRefinement, data: Any) -> None:
        if self._noted_labels is None:
            return
        state = self._noted_labels['state']
        found = tuple(state['logits'].shape)
        if found != tuple(refinement.logits.shape):
            raise PruningError(
                'label refinement: the checkpoint has labels of shape '
                f'{found}, the run of {tuple(refinement.logits.shape)}. '
                'Resume with the same training data, or start a new run from '
                'its weights: load_from, without resume'
            )
        self._check_images(self._noted_labels['images'], data)
        refinement.load_state_dict(state)

    def _check_images(self, noted: Tensor, data: Any) -> None:
        """Refuses labels of other images, or of another order of them."""
        assert self._ids is not None
        # [images] -> numbers of those that differ.
        others = (noted != self._ids).nonzero()[:, 0].tolist()
        if others:
            raise PruningError(
                f'label refinement: {len(others)} of {len(noted)} images are '
                'not those, in that order, whose labels the checkpoint has; '
                f'the first is number {others[0]} '
                f'({image_key(data, others[0])}). Resume with the same '
                'training data in the same order, or start a new run from '
                'its weights: load_from, without resume'
            )


def _check_mixing(student: nn.Module) -> None:
    """A mixed image is none that has a label of its own."""
    preprocessor = getattr(student, 'data_preprocessor', None)
    if getattr(preprocessor, 'batch_augments', None) is not None:
        raise PruningError(
            'label refinement: the data_preprocessor mixes images '
            '(batch_augments, or train_cfg.augments of the model), and a '
            'mixed one has no label of its own. Leave the mixing out; '
            'mmlapp.Distiller works with it'
        )


def _numbering(data: Any) -> Any:
    """The data set that numbers the images, whatever repeats it."""
    outer = data
    while not (isinstance(data, BaseDataset) or hasattr(data, NUMBERED)):
        data = getattr(data, 'dataset', None)
        if data is None:
            raise PruningError(
                f'label refinement: {type(outer).__name__} does not number '
                'its images through. Take one data set of MMEngine, or '
                'mmlapp.ExpandedDataset around several'
            )
    return data
