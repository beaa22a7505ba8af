# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch.nn import functional

from mmlapp.core import PruningError
from mmlapp.core.distillation import LogitDistillation


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    teacher = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher, torch.tensor([3, 0, 6, 3, 1])


def test_two_classes_by_hand():
    """Logits of softmax (3/4, 1/4) and (1/4, 3/4) at T = 2."""
    apart = 2 * math.log(3)
    student = torch.tensor([[apart, 0.0]])
    teacher = torch.tensor([[0.0, apart]])
    # KL = 1/4 log(1/3) + 3/4 log 3 = log(3) / 2, times T^2 = 4.
    distill = LogitDistillation(alpha=0.5, temperature=2)
    torch.testing.assert_close(
        distill.term(student, teacher), torch.tensor(math.log(3))
    )
    # softmax of the student at T = 1 is (9/10, 1/10).
    expected = math.log(3) + 0.5 * math.log(10)
    found = distill(student, teacher, torch.tensor([1]))
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize(('alpha', 't'), [(0.9, 4), (0.3, 1), (1, 0.5)])
def test_gradient_in_closed_form(batch, alpha, t):
    """T alpha (softmax(s/T) - softmax(t/T)) + (1 - alpha)(softmax(s) - y)."""
    student, teacher, labels = batch
    LogitDistillation(alpha, t)(student, teacher, labels).backward()
    with torch.no_grad():
        soft = (student / t).softmax(1) - (teacher / t).softmax(1)
        hard = student.softmax(1) - functional.one_hot(labels, 7)
        expected = (alpha * t * soft + (1 - alpha) * hard) / len(labels)
    torch.testing.assert_close(student.grad, expected)


def test_autograd_agrees_with_differences(batch):
    student, teacher, labels = batch
    distill = LogitDistillation()
    assert torch.autograd.gradcheck(
        lambda s: distill(s, teacher, labels), (student,)
    )


def test_the_teacher_gets_no_gradient(batch):
    student, teacher, labels = batch
    teacher.requires_grad_()
    LogitDistillation()(student, teacher, labels).backward()
    assert teacher.grad is None


def test_equal_logits_leave_the_task_alone(batch):
    student, _, labels = batch
    distill = LogitDistillation(alpha=0.75)
    expected = 0.25 * functional.cross_entropy(student, labels)
    found = distill(student, student, labels)
    torch.testing.assert_close(found, expected)


def test_a_batch_counts_as_the_mean_of_its_images(batch):
    student, teacher, labels = batch
    distill = LogitDistillation()
    alone = [
        distill(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1])
        for i in range(len(labels))
    ]
    together = distill(student, teacher, labels)
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_maps_count_as_the_mean_of_their_positions(batch):
    student, teacher, labels = batch
    distill = LogitDistillation()
    # [5, 7] as one image of five positions: [1, 7, 5].
    found = distill(student.t()[None], teacher.t()[None], labels[None])
    torch.testing.assert_close(found, distill(student, teacher, labels))


def test_mixed_labels_are_the_mixture_of_losses(batch):
    student, teacher, first = batch
    second = first.flip(0)
    one_hot = [functional.one_hot(y, 7).double() for y in (first, second)]
    distill = LogitDistillation(0.7, 2)
    mixed = distill(student, teacher, 0.3 * one_hot[0] + 0.7 * one_hot[1])
    expected = 0.3 * distill(student, teacher, first)
    expected = expected + 0.7 * distill(student, teacher, second)
    torch.testing.assert_close(mixed, expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('autocast', [True, False])
def test_half_precision_is_computed_in_float32(batch, dtype, autocast):
    """Sums in half precision would be off by a hundredth."""
    student, teacher, labels = batch
    low = student.detach().to(dtype).requires_grad_()
    low_teacher = teacher.to(dtype)
    distill = LogitDistillation()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        found = distill(low, low_teacher, labels)
    expected = distill(low.double(), low_teacher.double(), labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    found.backward()
    assert low.grad.dtype == dtype


def test_large_logits_stay_finite():
    student = torch.tensor([[6e4, -6e4]], dtype=torch.float16)
    found = LogitDistillation(1)(student.requires_grad_(), -student)
    assert found.isfinite()
    found.backward()
    assert student.grad.isfinite().all()


def test_soft_labels_of_another_precision(batch):
    student, teacher, labels = batch
    soft = functional.one_hot(labels, 7)
    distill = LogitDistillation()
    found = distill(student, teacher, soft.half())
    torch.testing.assert_close(found, distill(student, teacher, labels))


def test_other_classes_are_refused(batch):
    student, teacher, labels = batch
    with pytest.raises(PruningError, match=r'\(5, 7\).*\(5, 6\).*classes'):
        LogitDistillation()(student, teacher[:, :6], labels)


@pytest.mark.parametrize('alpha', [0, -0.1, 1.1, '0.9', True, math.nan])
def test_alpha_out_of_range(alpha):
    with pytest.raises(PruningError, match=r'alpha=.*above 0 to 1'):
        LogitDistillation(alpha=alpha)


@pytest.mark.parametrize('temperature', [0, -4, '4', math.inf])
def test_temperature_out_of_range(temperature):
    with pytest.raises(PruningError, match=r'temperature=.*above 0'):
        LogitDistillation(temperature=temperature)


def test_labels_are_missing(batch):
    student, teacher, labels = batch
    with pytest.raises(PruningError, match=r'alpha=0\.9.*set alpha=1'):
        LogitDistillation()(student, teacher)
    alone = LogitDistillation(alpha=1)
    torch.testing.assert_close(
        alone(student, teacher), alone(student, teacher, labels)
    )
