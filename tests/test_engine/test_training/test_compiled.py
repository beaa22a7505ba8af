# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of one run stay out of what is compiled."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from mmlapp.core import LAPP, Phase, attach, narrow
from mmlapp.engine.training.compiled import Uncompiled, leave_uncompiled


def build() -> tuple[nn.Sequential, LAPP]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    pruner.begin({'flops': 0.5}, 2)
    return model, pruner


@pytest.mark.filterwarnings('ignore')  # of the compiler
def test_the_thresholds_of_this_run_alone_are_not_compiled() -> None:
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def compiled(pruner: LAPP) -> int:
        torch.compiler.reset()
        graphs.clear()
        loss = torch.compile(lambda: pruner.loss(), backend=count)
        assert loss().item() == pytest.approx(pruner.loss().item())
        return len(graphs)

    (_, mine), (_, other) = build(), build()
    leave_uncompiled(mine)
    assert compiled(mine) == 0
    assert compiled(other) > 0


def test_a_copy_steps_itself() -> None:
    model, pruner = build()
    leave_uncompiled(pruner)
    twin = copy.deepcopy(model).pruner
    for _ in range(2):
        twin.step()
    assert twin.phase == Phase.FINISHED
    assert pruner.progress.done == 0
    assert twin.loss.function.__self__ is twin


def test_a_model_is_saved_and_narrowed_as_without_it() -> None:
    model, pruner = build()
    before = list(model.state_dict())
    leave_uncompiled(pruner)
    leave_uncompiled(pruner)
    assert list(model.state_dict()) == before
    pruner.finish()
    assert len(list(narrow(model, pruner.plan()))) == 3


def test_the_compiler_is_not_pickled() -> None:
    read = pickle.loads(pickle.dumps(Uncompiled(math.sqrt)))
    assert read(9.0) == 3.0
    assert b'torch' not in pickle.dumps(read)
