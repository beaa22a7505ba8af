# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import PruningError
from mmlapp.core.distillation import (
    DISTILLATIONS,
    Distillation,
    freeze,
    register_distillation,
)
from mmlapp.core.distillation.base import as_pair


def test_a_registered_distillation_is_built_by_name():
    @register_distillation('test_l1')
    class L1(Distillation):
        def __init__(self, weight=1.0):
            self.weight = weight

        def term(self, student, teacher):
            return self.weight * (student - teacher).abs().mean()

    built = DISTILLATIONS.build(dict(type='test_l1', weight=3))
    assert built.term(torch.ones(2, 2), torch.zeros(2, 2)) == 3
    assert built.task_weight == 1


def test_unknown_names_and_settings_say_what_there_is():
    with pytest.raises(PruningError, match=r"distillation='hinton'.*logits"):
        DISTILLATIONS.build('hinton')
    with pytest.raises(PruningError, match='did you mean temperature'):
        DISTILLATIONS.build(dict(type='logits', temprature=2))


class Quiet(nn.Sequential):
    """Networks whose ``train`` returns nothing, as backbones' often do."""

    def train(self, mode=True):
        super().train(mode)


def test_a_frozen_teacher_never_changes():
    teacher = Quiet(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    assert freeze(teacher) is teacher
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    images = torch.randn(4, 3)
    assert not teacher(images).requires_grad
    torch.testing.assert_close(teacher(images), teacher(images))
    torch.testing.assert_close(dict(teacher.state_dict()), before)


@pytest.mark.parametrize(
    ('dtype', 'expected'),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_what_is_compared_is_precise_enough(dtype, expected):
    pair = as_pair(
        torch.ones(2, 3, dtype=dtype), torch.ones(2, 3), 'logits', ''
    )
    assert pair[0].dtype == expected


@pytest.mark.parametrize(
    ('student', 'teacher', 'text'),
    [
        ([1.0], torch.ones(2, 3), 'student maps: expected a tensor, not list'),
        (torch.ones(2, 3), None, 'teacher maps: expected .* not NoneType'),
        (torch.ones(2, 3), torch.ones(2, 4), r'\(2, 3\).*\(2, 4\): mend it'),
        (torch.ones(2, 3), torch.ones(3), r'\(2, 3\).*\(3,\): mend it'),
        (torch.ones(3), torch.ones(3), r'\(3,\): expected a batch'),
        (torch.ones(0, 3), torch.ones(0, 3), r'\(0, 3\): expected a batch'),
    ],
)
def test_what_does_not_fit_is_named(student, teacher, text):
    with pytest.raises(PruningError, match=text):
        as_pair(student, teacher, 'maps', 'mend it')
