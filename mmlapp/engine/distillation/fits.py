# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether a teacher fits the student, asked before training begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmlapp.core import Distillation, LogitDistillation, PruningError
from mmlapp.core.progress import Phase

from ..models.comparison import random_probes
from ..models.plans import narrow_model
from ..training.parts import own_pruner
from ..training.trial import copy_of
from .outputs import Outputs, find_module
from .teacher import Teacher

# What data preprocessors of OpenMMLab do to the values of an image.
PREPROCESSING = 'mean', 'std', 'to_rgb', '_channel_conversion'


def check_fits(
    student: nn.Module,
    teacher: Teacher,
    losses: Mapping[str, Distillation],
    classes: Any,
) -> None:
    """Refuses a teacher that speaks of something else than the student.

    Args:
        student (nn.Module): The model that is trained.
        teacher (Teacher): The teacher.
        losses (Mapping[str, Distillation]): By name of the module.
        classes (Sequence[str], optional): Those of the training data, if
            they are known.

    Raises:
        PruningError: With what differs, and both values.
    """
    _check_preprocessing(student, teacher.model)
    for name, loss in losses.items():
        pair = (
            find_module(student, name, 'the student'),
            find_module(teacher.model, name, 'the teacher'),
        )
        if isinstance(loss, LogitDistillation):
            _check_count(name, *pair)
            _check_names(teacher.meta, classes)


def _check_count(name: str, student: nn.Module, teacher: nn.Module) -> None:
    counts = [getattr(m, 'num_classes', None) for m in (student, teacher)]
    # Heads of other kinds say no number, and are compared in the first step.
    if None not in counts and counts[0] != counts[1]:
        raise PruningError(
            f'teacher: its {name} has num_classes={counts[1]}, that of the '
            f'model num_classes={counts[0]}. Give a teacher that was trained '
            'on the classes of the run'
        )


def _check_names(meta: Mapping[str, Any], classes: Any) -> None:
    """Compares the classes that the teacher was trained on."""
    known = meta.get('dataset_meta')
    found = known.get('classes') if isinstance(known, Mapping) else None
    if not found or not classes or list(found) == list(classes):
        return
    # The first name that differs, or else one list is longer.
    pairs = enumerate(zip(found, classes, strict=False))
    index = next((i for i, (a, b) in pairs if a != b), None)
    if index is None:
        text = f'has {len(found)} classes, the training data {len(classes)}'
    else:
        text = (
            f'calls class {index} {found[index]!r}, the training data '
            f'{classes[index]!r}'
        )
    raise PruningError(
        f'teacher: its checkpoint {text}. Give a teacher of the same classes '
        'in the same order'
    )


def _check_preprocessing(student: nn.Module, teacher: nn.Module) -> None:
    """The teacher sees the images as they were made for the student."""
    both = [getattr(m, 'data_preprocessor', None) for m in (student, teacher)]
    for name in PREPROCESSING:
        own, other = (_plain(getattr(part, name, None)) for part in both)
        if own != other:
            raise PruningError(
                f'teacher: it was trained with {name}={other} of the '
                f'data_preprocessor, the run has {own}, and both see the '
                'same images. Give both the same'
            )


def _plain(value: Any) -> Any:
    # [3, 1, 1] -> [3], whatever the shape.
    return value.flatten().tolist() if isinstance(value, Tensor) else value


def check_kept_widths(student: nn.Module, names: Iterable[str]) -> None:
    """Refuses modules whose outputs pruning makes narrower.

    A copy is run, narrowed to all but the last channel of every group, and
    run again.

    Args:
        student (nn.Module): The model; if it has no pruner nothing is done.
        names (Iterable[str]): Names of the modules.

    Raises:
        PruningError: With the name and both shapes.
    """
    pruner = own_pruner(student)
    if pruner is None or pruner.phase == Phase.FINISHED:
        return
    if pruner.input_shape is None:
        return
    names, twin = list(names), copy_of(student)
    before = _shapes(twin, names, pruner.input_shape)
    # Narrow by a channel: what follows a group has another shape then.
    twin.pruner.set_mask(_one_less(twin.pruner))
    narrow_model(twin, twin.pruner.plan())
    after = _shapes(twin, names, pruner.input_shape)
    for name in names:
        if before[name] != after[name]:
            raise PruningError(
                f'losses={name!r}: pruning makes the outputs of the module '
                f'narrower, from {before[name]} to {after[name]} with one '
                'channel less in every group. Name a module behind it whose '
                'outputs are not pruned, such as the head, or add the layer '
                'that makes them to ignore of mmlapp.PrunableModel'
            )


def _one_less(pruner: Any) -> Tensor:
    """All channels but the last of every group, ``[channels]``."""
    masks = []
    for group in pruner.groups:
        mask = torch.ones(group.size, dtype=torch.bool)
        # A group that keeps all its channels stays whole.
        mask[max(group.size - 1, group.floor) :] = False
        masks.append(mask)
    return torch.cat(masks).to(pruner.gate.device)


def _shapes(
    model: nn.Module, names: Iterable[str], input_shape: Any
) -> dict[str, list[tuple[int, ...]]]:
    probe = random_probes(input_shape)[0]
    outputs = Outputs(model, names, 'the student')
    found = outputs.of(lambda: probe.run(model))
    outputs.remove()
    return {
        name: [tuple(tensor.shape) for tensor in tensors]
        for name, tensors in found.items()
    }
