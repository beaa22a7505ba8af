# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmlapp.core import LabelRefinement, PruningError
from mmlapp.core.distillation import freeze
from mmlapp.engine.distillation import refined_losses
from mmlapp.engine.distillation.refined_losses import (
    RefinedLosses,
    sample_indices,
)


class Net(nn.Module):
    """Runs in the manner of MMEngine's models."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.head, self.calls = nn.Linear(4, 3), 0

    def forward(
        self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor'
    ) -> Any:
        self.calls += 1
        logits = self.head(inputs)
        return {'loss': logits.square().mean()} if mode == 'loss' else logits


def samples(*indices: Any) -> list[SimpleNamespace]:
    return [SimpleNamespace(sample_idx=index) for index in indices]


@pytest.fixture
def losses() -> RefinedLosses:
    refine = LabelRefinement(9, 3)
    return RefinedLosses(Net(0), freeze(Net(1)), 'head', refine)


IMAGES = torch.randn(4, 4)


def test_labels_begin_as_the_teachers_and_move(losses: RefinedLosses) -> None:
    student, teacher = losses.student, losses.teacher
    found = student(IMAGES, samples(5, 1, 8, 0), mode='loss')
    p, d = student(IMAGES).softmax(1), teacher(IMAGES)
    divergence = (p * (p.log() - d.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(
        found['loss_distillation_head'], 0.7 * divergence
    )
    torch.testing.assert_close(
        found['loss'], 0.3 * student(IMAGES).square().mean()
    )
    losses.step()
    expected = torch.zeros(9, 3)
    moved = d - 0.7 / 4 * (d.softmax(1) - p)
    expected[[5, 1, 8, 0]] = moved.detach()
    torch.testing.assert_close(losses.refinement.logits, expected)


def test_the_teacher_runs_for_new_images_alone(losses: RefinedLosses) -> None:
    for indices, calls in (
        ((5, 1, 8, 0), 1),
        ((1, 5, 0, 8), 1),
        ((1, 5, 2, 8), 2),
    ):
        losses.student(IMAGES, samples(*indices), mode='loss')
        losses.step()
        assert losses.teacher.calls == calls
    losses.step()  # nothing is left to do


# What each of two processes sees: row of IMAGES, index of the image.
VIEWS = [[(0, 5), (1, 1), (2, 8)], [(1, 7), (2, 1), (3, 8)]]


def test_processes_end_with_the_same_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Image 1 is new to both, image 8 is in both: half of each moves."""
    start, told = torch.randn(3), list[Any]()

    def exchange(part: Any) -> list[Any]:
        told.append(part)
        return told[:2] if len(told) > 1 else [part, part]

    two = SimpleNamespace(get_world_size=lambda: 2, all_gather_object=exchange)
    monkeypatch.setattr(refined_losses, 'dist', two)

    def run(rank: int) -> LabelRefinement:
        refine = LabelRefinement(9, 3)
        refine.initialise(torch.tensor([8]), start[None])
        losses = RefinedLosses(Net(0), freeze(Net(1)), 'head', refine)
        rows, images = zip(*VIEWS[rank], strict=True)
        losses.student(IMAGES[list(rows)], samples(*images), mode='loss')
        losses.step()
        return refine

    run(0), run(1)  # Tell what each of them saw.
    one, other = run(0), run(1)
    torch.testing.assert_close(one.logits, other.logits, rtol=0, atol=0)
    torch.testing.assert_close(one.logits, expected_labels(start))
    assert one.known.nonzero()[:, 0].tolist() == [1, 5, 7, 8]


@torch.no_grad()
def expected_labels(start: Tensor) -> Tensor:
    student, labels = Net(0)(IMAGES).softmax(1), torch.zeros(9, 3)
    teacher = Net(1)(IMAGES)
    labels[[5, 1, 7, 8]] = torch.stack([*teacher[[0, 1, 1]], start])
    for views in VIEWS:
        for row, image in views:
            # Each moves from where its process took it to be.
            own = start if image == 8 else teacher[row]
            labels[image] -= 0.7 / 6 * (own.softmax(0) - student[row])
    return labels


def test_a_module_of_several_outputs_has_no_logits() -> None:
    student, teacher = Net(0), freeze(Net(1))
    for net in (student, teacher):
        net.head.register_forward_hook(lambda *args: (args[2], args[2]))
        net.forward = two_heads.__get__(net)  # type: ignore[method-assign]
    RefinedLosses(student, teacher, 'head', LabelRefinement(9, 3))
    with pytest.raises(PruningError, match="module='head' puts out 2 tens"):
        student(IMAGES, samples(0, 1, 2, 3), mode='loss')


def two_heads(
    self: Net, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor'
) -> Any:
    return {'loss': self.head(inputs)[0].mean()}


def test_indices_are_those_of_the_samples() -> None:
    assert sample_indices(samples(3, 0, 2)).tolist() == [3, 0, 2]


@pytest.mark.parametrize(
    'given', [None, [], samples(None), samples(1, 'a'), [SimpleNamespace()]]
)
def test_samples_that_do_not_say_it_are_refused(given: Any) -> None:
    with pytest.raises(PruningError, match="'sample_idx' among its meta_key"):
        sample_indices(given)
