# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch.nn import functional

from mmlapp.core import PruningError
from mmlapp.core.distillation import LabelRefinement

INDICES = torch.tensor([7, 2, 5])
LABELS = torch.tensor([0, 3, 1])


@pytest.fixture
def student():
    torch.manual_seed(0)
    return torch.randn(3, 4, requires_grad=True)


@pytest.fixture
def refine():
    torch.manual_seed(1)
    refine = LabelRefinement(10, 4, alpha=0.6, temperature=2, label_lr=3)
    refine.initialise(torch.arange(10), torch.randn(10, 4))
    return refine


def defined(student, rows, alpha, t):
    """The loss as its formula has it, with gradients for both."""
    p = (student / t).softmax(1)
    q = (rows / t).softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    task = functional.cross_entropy(student, LABELS)
    return alpha * t**2 * divergence + (1 - alpha) * task


def test_loss_and_gradient_are_those_of_the_formula(student, refine):
    rows = refine.logits[INDICES]
    expected = defined(student, rows, 0.6, 2)
    found = refine(student, INDICES, LABELS)
    torch.testing.assert_close(found, expected)
    gradients = [
        torch.autograd.grad(loss, student)[0] for loss in (found, expected)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('scale', [1, 1024])
def test_labels_move_against_their_gradient(student, refine, scale):
    """The gradient by autograd; scaling the loss is no part of it."""
    before = refine.logits.clone()
    rows = before[INDICES].requires_grad_()
    (slope,) = torch.autograd.grad(defined(student, rows, 0.6, 2), rows)
    (scale * refine(student, INDICES, LABELS)).backward()
    torch.testing.assert_close(refine.logits, before, rtol=0, atol=0)
    refine.step()
    expected = before.clone()
    expected[INDICES] -= 3 * slope
    torch.testing.assert_close(refine.logits, expected)


def test_an_image_that_is_there_twice_moves_twice(refine):
    twice = torch.tensor([4, 4])
    student = torch.randn(2, 4)
    before, slopes = refine.logits[4].clone(), []
    rows = before.repeat(2, 1).requires_grad_()
    p, q = (student / 2).softmax(1), (rows / 2).softmax(1)
    loss = 0.6 * 4 * (p * (p.log() - q.log())).sum(1).mean()
    (slopes,) = torch.autograd.grad(loss, rows)
    refine.term(student, twice)
    refine.step()
    torch.testing.assert_close(refine.logits[4], before - 3 * slopes.sum(0))


def test_defaults_are_those_of_curl(student):
    refine = LabelRefinement(3, 4)
    rows = torch.randn(3, 4)
    refine.initialise(torch.arange(3), rows)
    found = refine(student, torch.arange(3), LABELS)
    torch.testing.assert_close(found, defined(student, rows, 0.7, 1))
    refine.step()
    slope = 0.7 / 3 * (rows.softmax(1) - student.softmax(1))
    torch.testing.assert_close(refine.logits, rows - slope.detach())


def test_first_labels_are_given_once():
    refine = LabelRefinement(4, 2)
    assert not refine.knows(torch.tensor([1]))
    first, then = torch.eye(2), -torch.eye(2)
    refine.initialise(torch.tensor([1, 3]), first)
    refine.initialise(torch.tensor([3, 2]), then)
    expected = torch.stack([torch.zeros(2), first[0], then[1], first[1]])
    torch.testing.assert_close(refine.logits, expected)
    assert refine.known.tolist() == [False, True, True, True]


def test_of_two_views_of_an_image_the_first_counts():
    refine = LabelRefinement(4, 2)
    views = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    refine.initialise(torch.tensor([1, 0, 1]), views)
    torch.testing.assert_close(refine.logits[:2], views[[1, 0]])


def test_state_is_saved_and_goes_on(student, refine):
    twin = LabelRefinement(10, 4, alpha=0.6, temperature=2, label_lr=3)
    twin.load_state_dict(copy.deepcopy(refine.state_dict()))
    for one in (refine, twin):
        one(student, INDICES, LABELS)
        one.step()
    torch.testing.assert_close(twin.logits, refine.logits, rtol=0, atol=0)
    assert not list(refine.parameters())


def test_without_a_rate_labels_stay(student):
    refine = LabelRefinement(10, 4, label_lr=0)
    refine.initialise(torch.arange(10), rows := torch.randn(10, 4))
    refine(student, INDICES, LABELS)
    refine.step()
    torch.testing.assert_close(refine.logits, rows)


@pytest.mark.parametrize('autocast', [True, False])
def test_half_precision_is_computed_in_float32(student, refine, autocast):
    low = student.detach().bfloat16()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        found = refine(low, INDICES, LABELS)
    expected = defined(low.float(), refine.logits[INDICES], 0.6, 2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_moves_can_be_exchanged(student, refine):
    """Of two processes, say: each takes that of the other too."""
    alone = copy.deepcopy(refine)
    for one in (alone, refine):
        one.term(student, INDICES)
    alone.step()
    indices, slopes = refine.take_move()
    assert refine.take_move() is None
    refine.step()
    refine.move(indices, slopes)
    torch.testing.assert_close(refine.logits, alone.logits)


def test_what_is_forgotten_is_named(student, refine):
    fresh = LabelRefinement(10, 4)
    with pytest.raises(PruningError, match='no pseudo-logits yet'):
        fresh(student, INDICES, LABELS)
    refine(student, INDICES, LABELS)
    with pytest.raises(PruningError, match=r'step\(\) was not called'):
        refine(student, INDICES, LABELS)


def test_what_does_not_fit_is_named(student, refine):
    with pytest.raises(PruningError, match=r'\(3, 3\), .*classes=4'):
        refine.term(student[:, :3], INDICES)
    with pytest.raises(PruningError, match=r'\(2, 5\), .*classes=4'):
        refine.initialise(INDICES[:2], torch.ones(2, 5))
    with pytest.raises(PruningError, match=r'\(3, 4\), expected \(2, 4\)'):
        refine.initialise(INDICES[:2], torch.ones(3, 4))
    for bad in (10, -1):
        with pytest.raises(PruningError, match=rf'{bad}.* of images=10'):
            refine.term(student, torch.tensor([0, bad, 1]))


@pytest.mark.parametrize(
    'settings',
    [
        dict(images=0),
        dict(classes=1),
        dict(alpha=0),
        dict(alpha=1.5),
        dict(temperature=0),
        dict(label_lr=-1),
    ],
)
def test_settings_out_of_range(settings):
    ((name, value),) = settings.items()
    with pytest.raises(PruningError, match=f'{name}={value}: expected'):
        LabelRefinement(**{**dict(images=3, classes=3), **settings})


@pytest.mark.parametrize(
    'indices',
    [[0, 1], torch.tensor([0.0, 1.0]), torch.tensor([True, False])],
)
def test_indices_that_are_no_whole_numbers(indices):
    refine = LabelRefinement(images=2, classes=3)
    with pytest.raises(PruningError, match=r'indices=.*torch\.tensor'):
        refine.initialise(indices, torch.randn(2, 3))
    assert not refine.known.any()
