# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from mmlapp.core import PruningError
from mmlapp.core.distillation import DISTILLATIONS, ChannelWise, FeatureMSE


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    shape = 2, 3, 4, 5
    student = torch.randn(shape, generator=generator, dtype=torch.float64)
    teacher = torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_mse_and_its_gradient_in_closed_form(maps):
    student, teacher = maps
    found = FeatureMSE(weight=3).term(student, teacher)
    difference = (student - teacher).detach()
    torch.testing.assert_close(found, 3 * difference.square().mean())
    found.backward()
    expected = 6 * difference / difference.numel()
    torch.testing.assert_close(student.grad, expected)


def test_channel_wise_by_hand():
    """Two positions with odds 3 : 1 and 1 : 3, as in the logits' test."""
    student = torch.tensor([[[0.0, 2 * math.log(3)]]])
    found = ChannelWise(temperature=2).term(student, student.flip(2))
    torch.testing.assert_close(found, torch.tensor(2 * math.log(3)))


def test_channel_wise_channel_by_channel(maps):
    student, teacher = maps
    found = ChannelWise(weight=2, temperature=3).term(student, teacher)
    terms = []
    for n in range(2):
        for c in range(3):
            p = (student[n, c].flatten() / 3).softmax(0)
            q = (teacher[n, c].flatten() / 3).softmax(0)
            terms.append((q * (q.log() - p.log())).sum())
    expected = 2 * 9 * torch.stack(terms).mean()
    torch.testing.assert_close(found, expected)


def test_channel_wise_gradient_in_closed_form(maps):
    """Times w T / (N C): what each position has too much of."""
    student, teacher = maps
    ChannelWise(2, 3).term(student, teacher).backward()
    p, q = ((m.detach().flatten(2) / 3).softmax(2) for m in maps)
    expected = (2 * 3 * (p - q) / 6).reshape(student.shape)
    torch.testing.assert_close(student.grad, expected)


@pytest.mark.parametrize('kind', ['mse', 'channel_wise'])
def test_half_precision_is_computed_in_float32(kind):
    student = torch.full((1, 2, 2, 2), 300.0, dtype=torch.float16)
    found = DISTILLATIONS.build(kind).term(student, 0 * student)
    # 300^2 is more than float16 holds.
    assert found.dtype == torch.float32
    assert found.isfinite()


@pytest.mark.parametrize('kind', ['mse', 'channel_wise'])
def test_the_task_keeps_its_weight(kind):
    assert DISTILLATIONS.build(kind).task_weight == 1


@pytest.mark.parametrize('kind', ['mse', 'channel_wise'])
def test_pruned_widths_are_refused(maps, kind):
    student, teacher = maps
    with pytest.raises(PruningError, match=r'\(2, 2, 4, 5\).*keeps the width'):
        DISTILLATIONS.build(kind).term(student[:, :2], teacher)


def test_vectors_have_no_positions():
    vectors = torch.ones(2, 3)
    with pytest.raises(PruningError, match=r'\(2, 3\).*Take mse'):
        ChannelWise().term(vectors, vectors)
    assert FeatureMSE().term(vectors, vectors) == 0


@pytest.mark.parametrize(
    'settings',
    [
        dict(type='mse', weight=0),
        dict(type='channel_wise', weight=-1),
        dict(type='channel_wise', temperature=0),
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(PruningError, match=r'(weight|temperature)=.*above 0'):
        DISTILLATIONS.build(settings)
