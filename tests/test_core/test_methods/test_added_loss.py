# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A part of the loss that nobody adds is noticed."""

import copy

import pytest
import torch

from mmlapp.core import PruningError
from mmlapp.core.methods.added_loss import AddedLoss


def test_each_step_wants_a_backward_through_it():
    part = AddedLoss('some')
    weight = torch.ones(2, requires_grad=True)
    for _ in range(2):
        loss = part.watch(weight.square().sum())
        with pytest.raises(PruningError, match='method some: its part'):
            part.check()
        (3 * loss + weight.sum()).backward()
        part.check()
    assert weight.grad.tolist() == [2 * (6 + 1)] * 2
    with pytest.raises(PruningError, match='Add pruner'):
        part.check()


def test_without_a_graph_none_comes():
    part = AddedLoss('some')
    assert float(part.watch(torch.ones(()))) == 1
    with pytest.raises(PruningError):
        part.check()


def test_a_copy_waits_on_its_own():
    part = AddedLoss('some')
    part.watch(torch.ones((), requires_grad=True)).backward()
    twin = copy.deepcopy(part)
    twin.check()
    part.check()
