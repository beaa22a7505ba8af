# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmlapp.core import PruningError
from mmlapp.core.distillation import (
    FeatureMSE,
    LogitDistillation,
    freeze,
)
from mmlapp.engine.distillation.losses import DistilledLosses
from mmlapp.engine.models.prunable import LOSS


class Net(nn.Module):
    """Runs in the manner of MMEngine's models."""

    def __init__(self, seed: int, classes: int = 3, levels: int = 2) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.neck = nn.ModuleList(nn.Linear(4, 5) for _ in range(levels))
        self.neck.forward = self._levels  # type: ignore[method-assign]
        self.head, self.modes = nn.Linear(5, classes), list[str]()
        self.recorded = False

    def _levels(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(level(inputs) for level in self.neck)

    def forward(
        self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor'
    ) -> Any:
        self.modes.append(mode)
        self.recorded |= torch.is_grad_enabled()
        logits = self.head(sum(self.neck(inputs)))
        if mode != 'loss':
            return logits
        return {
            'loss_cls': nn.functional.cross_entropy(logits, data_samples),
            'loss_levels': [logits.mean(), logits.square().mean()],
            'accuracy': torch.tensor(50.0),
            LOSS: torch.tensor(7.0),
        }


@pytest.fixture
def nets() -> tuple[Net, Net]:
    return Net(0), freeze(Net(1))


IMAGES, LABELS = torch.randn(6, 4), torch.tensor([0, 2, 1, 1, 0, 2])


def test_logits_join_the_losses_of_the_task(nets: tuple[Net, Net]) -> None:
    student, teacher = nets
    plain = student(IMAGES, LABELS, mode='loss')
    distill = LogitDistillation(0.75, 2)
    DistilledLosses(student, teacher, {'head': distill})
    found = student(IMAGES, LABELS, mode='loss')
    whole = distill(student(IMAGES), teacher(IMAGES), LABELS)
    torch.testing.assert_close(
        found['loss_cls'] + found['loss_distillation_head'], whole
    )
    for ours, theirs in zip(
        found['loss_levels'], plain['loss_levels'], strict=True
    ):
        torch.testing.assert_close(ours, 0.25 * theirs)
    # What counts nothing, and what the pruning method adds, stay.
    assert found['accuracy'] == 50
    assert found[LOSS] == 7


def test_positional_arguments_are_understood(nets: tuple[Net, Net]) -> None:
    student, teacher = nets
    DistilledLosses(student, teacher, {'head': LogitDistillation()})
    by_name = student(IMAGES, LABELS, mode='loss')
    by_place = student(IMAGES, LABELS, 'loss')
    for name, value in by_name.items():
        torch.testing.assert_close(by_place[name], value)
    assert set(teacher.modes) == {'tensor'}


def test_levels_count_as_their_mean(nets: tuple[Net, Net]) -> None:
    student, teacher = nets
    DistilledLosses(student, teacher, {'neck': FeatureMSE(weight=3)})
    found = student(IMAGES, LABELS, mode='loss')
    expected = [
        3 * (mine - its).square().mean()
        for mine, its in zip(
            student.neck(IMAGES), teacher.neck(IMAGES), strict=True
        )
    ]
    torch.testing.assert_close(
        found['loss_distillation_neck'], torch.stack(expected).mean()
    )
    torch.testing.assert_close(
        found['loss_cls'],
        nn.functional.cross_entropy(student(IMAGES), LABELS),
    )


def test_gradients_reach_the_student_alone(nets: tuple[Net, Net]) -> None:
    student, teacher = nets
    teacher.requires_grad_(True)
    DistilledLosses(student, teacher, {'head': LogitDistillation(alpha=1)})
    losses = student(IMAGES, LABELS, mode='loss')
    losses['loss_distillation_head'].backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert not teacher.recorded


def test_training_steps_alone_are_changed(nets: tuple[Net, Net]) -> None:
    student, teacher = nets
    losses = DistilledLosses(
        student, teacher, {'head': LogitDistillation(alpha=1)}
    )
    assert isinstance(student(IMAGES), Tensor)
    student.eval()
    assert student(IMAGES, LABELS, mode='loss')['loss_cls'] > 0
    assert losses.steps == 0
    assert not teacher.modes


def test_the_student_stays_what_it_is(nets: tuple[Net, Net]) -> None:
    student, teacher = nets
    before = list(student.state_dict())
    losses = DistilledLosses(
        student, teacher, {'head': LogitDistillation(alpha=1)}
    )
    assert list(student.state_dict()) == before
    twin = copy.deepcopy(student)
    assert twin(IMAGES, LABELS, mode='loss')['loss_cls'] > 0
    assert not teacher.modes
    losses.remove()
    assert student(IMAGES, LABELS, mode='loss')['loss_cls'] > 0
    assert not student._forward_hooks
    assert not teacher.head._forward_hooks


@pytest.mark.parametrize('broken', [True, False])
def test_a_step_that_failed_leaves_no_trace(
    nets: tuple[Net, Net], broken: bool
) -> None:
    student, teacher = nets
    DistilledLosses(student, teacher, {'head': LogitDistillation()})
    if broken:
        with pytest.raises(ValueError, match='batch_size'):
            student(IMAGES, torch.zeros(1, 1, dtype=torch.long), mode='loss')
    assert student(IMAGES, LABELS, mode='loss')['loss_cls'] > 0


def test_mixed_precision_keeps_the_terms_precise(
    nets: tuple[Net, Net],
) -> None:
    student, teacher = nets
    DistilledLosses(student, teacher, {'head': LogitDistillation()})
    with torch.autocast('cpu', torch.bfloat16):
        found = student(IMAGES, LABELS, mode='loss')
        logits = student(IMAGES), teacher(IMAGES)
    assert logits[1].dtype == torch.bfloat16
    expected = LogitDistillation().term(*(x.double() for x in logits))
    torch.testing.assert_close(
        found['loss_distillation_head'], expected.float(), rtol=2e-5, atol=0
    )


def test_other_classes_name_the_module(nets: tuple[Net, Net]) -> None:
    student, _ = nets
    DistilledLosses(student, Net(1, 4), {'head': LogitDistillation()})
    with pytest.raises(PruningError, match=r"losses='head': .*\(6, 4\).*cla"):
        student(IMAGES, LABELS, mode='loss')


def test_other_levels_name_the_module(nets: tuple[Net, Net]) -> None:
    student, _ = nets
    DistilledLosses(student, Net(1, levels=3), {'neck': FeatureMSE()})
    with pytest.raises(PruningError, match=r"losses='neck': .* 2 .* 3 in"):
        student(IMAGES, LABELS, mode='loss')


def test_a_module_without_gradients_is_refused(nets: tuple[Net, Net]) -> None:
    student, teacher = nets
    student.neck.requires_grad_(False)
    DistilledLosses(student, teacher, {'neck': FeatureMSE()})
    with pytest.raises(PruningError, match=r"losses='neck': no gradient"):
        student(IMAGES, LABELS, mode='loss')


@pytest.mark.parametrize('lacking', ['student', 'teacher'])
def test_the_one_that_lacks_a_module_is_named(
    nets: tuple[Net, Net], lacking: str
) -> None:
    pair = dict(zip(['student', 'teacher'], nets, strict=True))
    del pair[lacking].head
    with pytest.raises(PruningError, match=f"losses='head': the {lacking}"):
        DistilledLosses(*pair.values(), {'head': LogitDistillation()})


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # of the compiler
def test_a_compiled_step_has_the_same_losses(nets: tuple[Net, Net]) -> None:
    student, teacher = nets
    losses = {'head': LogitDistillation()}
    DistilledLosses(student, teacher, losses, compiled=True)

    def step() -> Any:
        return student(IMAGES, LABELS, mode='loss')

    found = torch.compile(step, backend='eager')()
    for name, value in step().items():
        torch.testing.assert_close(found[name], value)
