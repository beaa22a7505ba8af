# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a step learns from, and what the teacher costs."""

import pytest
import torch
from accuracy.data import Images
from accuracy.lessons import FORWARD, LESSONS, Refined, mixed
from torch import nn
from torch.nn import functional


class Told(nn.Module):
    """A teacher that says what it was told to, by the first pixel."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.asked = logits, 0

    def forward(self, images):
        self.asked += 1
        return self.logits[: len(images)]


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator
    )
    labels = 3 * torch.arange(8) % 10
    return Images(pixels, labels, 4, torch.device('cpu'))


def test_a_mixed_image_has_the_mean_of_both_labels(images):
    pixels, labels = next(images.epoch(0, 0))
    mix, truth = mixed(pixels, labels, torch.Generator().manual_seed(3))
    assert truth.sum(1).tolist() == pytest.approx([1.0] * 4)
    # The share of every label is that of the pixels of its image.
    flat = pixels.flatten(1)
    assert torch.allclose(truth[:, labels] @ flat, mix.flatten(1), atol=1e-4)
    assert (truth > 0).sum(1).max() == 2


def test_mixed_batches_are_those_of_seed_and_epoch(images):
    def shares(seed, epoch):
        lesson = LESSONS['mixup'](images, Told(torch.zeros(4, 10)))
        truths = [truth for _, truth in lesson.batches(seed, epoch)]
        return [truth[truth > 0].min().item() for truth in truths]

    found = [shares(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert found[0] == shares(0, 0)
    assert len({share for each in found for share in each}) == 8


def test_mixup_distillation_has_the_constants_of_the_recipe(images):
    told, logits = torch.randn(4, 10), torch.randn(4, 10)
    lesson = LESSONS['mixup'](images, Told(told))
    pixels, truth = next(lesson.batches(0, 0))
    assert torch.equal(lesson.ask(pixels, truth), told)
    soft = functional.kl_div(
        (logits / 2).log_softmax(1), (told / 2).softmax(1), reduction='sum'
    )
    hard = -(truth * logits.log_softmax(1)).sum()
    found = lesson.loss(logits, told, truth)
    assert found == pytest.approx((0.7 * 4 * soft + 0.3 * hard).item() / 4)
    assert lesson.cost == FORWARD


def test_refined_labels_begin_as_the_teachers_and_move(images):
    told = torch.randn(4, 10)
    lesson = Refined(images, Told(told))
    pixels, numbers = next(lesson.batches(0, 0))
    assert set(numbers.tolist()) <= set(range(8))
    logits = torch.randn(4, 10)
    found = lesson.loss(logits, lesson.ask(pixels, numbers), numbers)
    hard = functional.cross_entropy(logits, images.labels[numbers])
    p, q = logits.softmax(1), told.softmax(1)
    soft = (p * (p / q).log()).sum() / 4
    assert found == pytest.approx((0.7 * soft + 0.3 * hard).item(), rel=1e-5)
    lesson.step()
    moved = told - 0.7 / 4 * (q - p)
    assert torch.allclose(lesson.refine.logits[numbers], moved, atol=1e-6)


def test_a_teacher_of_refined_labels_is_asked_and_paid_once(images):
    lesson = Refined(images, Told(torch.randn(4, 10)))
    costs = []
    for epoch in range(2):
        for pixels, numbers in lesson.batches(0, epoch):
            told = lesson.ask(pixels, numbers)
            lesson.loss(torch.randn(4, 10), told, numbers)
            lesson.step()
            costs.append(lesson.cost)
    assert costs == [FORWARD, FORWARD, 0.0, 0.0]
    assert lesson.teacher.asked == 2
