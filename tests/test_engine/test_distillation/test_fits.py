# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
from typing import Any

import pytest
import torch
from teachers import CLASSES, build, config_of
from torch import nn

from mmlapp.core import PruningError
from mmlapp.core.distillation import FeatureMSE, LogitDistillation
from mmlapp.engine.distillation.fits import check_fits, check_kept_widths
from mmlapp.engine.distillation.teacher import Teacher

LOGITS = {'head': LogitDistillation()}


def teacher_with(classes: Any = CLASSES, **head: Any) -> Teacher:
    model = build(config_of(prunable=False, **head))
    return Teacher(model, {'dataset_meta': {'classes': classes}}, '')


@pytest.fixture(scope='module')
def student() -> nn.Module:
    return build(config_of())


def test_a_teacher_of_the_same_classes_fits(student: nn.Module) -> None:
    check_fits(student, teacher_with(), LOGITS, list(CLASSES))
    check_fits(student, teacher_with(None), LOGITS, CLASSES)
    check_fits(student, teacher_with(), LOGITS, None)


def test_another_number_of_classes(student: nn.Module) -> None:
    teacher = teacher_with(num_classes=7)
    with pytest.raises(PruningError, match=r'num_classes=7, .*num_classes=10'):
        check_fits(student, teacher, LOGITS, None)


@pytest.mark.parametrize(
    ('classes', 'text'),
    [
        ((*CLASSES[:8], '9', '8'), "class 8 '9', the training data '8'"),
        (CLASSES[:8], 'has 8 classes, the training data 10'),
    ],
)
def test_other_classes(student: nn.Module, classes: Any, text: str) -> None:
    with pytest.raises(PruningError, match=text):
        check_fits(student, teacher_with(classes), LOGITS, CLASSES)


def test_features_may_be_of_other_classes(student: nn.Module) -> None:
    teacher = teacher_with(CLASSES[:7], num_classes=7)
    check_fits(student, teacher, {'neck': FeatureMSE()}, CLASSES)


@pytest.mark.parametrize(
    ('name', 'value'),
    [('mean', torch.full((3, 1, 1), 81.0)), ('to_rgb', True)],
)
def test_other_preprocessing(
    student: nn.Module, name: str, value: Any
) -> None:
    teacher = teacher_with()
    setattr(teacher.model.data_preprocessor, name, value)
    with pytest.raises(PruningError, match=rf'trained with {name}=.*the run'):
        check_fits(student, teacher, LOGITS, None)


def test_one_that_lacks_the_module_is_named(student: nn.Module) -> None:
    teacher = teacher_with()
    del teacher.model.head
    with pytest.raises(PruningError, match=r"losses='head': the teacher"):
        check_fits(student, teacher, LOGITS, None)


def test_pruned_outputs_are_refused_before_training(
    student: nn.Module,
) -> None:
    """The head has as many classes as ever."""
    before = {k: v.clone() for k, v in student.state_dict().items()}
    check_kept_widths(student, ['head'])
    for name, width in (('neck', 64), ('backbone.layer1.0.conv1', 16)):
        text = rf"losses='{name}'.*{width}.*{width - 1}.*ignore"
        with pytest.raises(PruningError, match=text):
            check_kept_widths(student, ['head', name])
    torch.testing.assert_close(dict(student.state_dict()), before)
    assert student.training
    assert not student.head._forward_hooks


def test_ignored_layers_keep_their_width() -> None:
    config = config_of()
    config.model.ignore = ['backbone.layer1.0.conv1']
    check_kept_widths(build(config), ['backbone.layer1.0.conv1'])


def test_groups_at_their_floor_keep_their_width(student: nn.Module) -> None:
    twin = copy.deepcopy(student)
    name = 'backbone.layer1.0.conv1'
    group = next(g for g in twin.pruner.groups if g.name == name)
    object.__setattr__(group, 'floor', group.size)
    check_kept_widths(twin, [name])


def test_a_model_without_a_pruner_keeps_all_widths() -> None:
    check_kept_widths(build(config_of(prunable=False)), ['backbone'])
