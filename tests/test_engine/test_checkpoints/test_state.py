# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says about the pruning, written and read."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from mmlapp.core import ChannelPlan, PruningError, attach
from mmlapp.engine.checkpoints.state import PruningState, check_version


@pytest.fixture
def plan() -> ChannelPlan:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    pruner.begin({'flops': 0.5}, 1)
    pruner.finish()
    return pruner.plan()


@pytest.mark.parametrize('narrowed', [False, True])
def test_what_is_written_is_read(plan: ChannelPlan, narrowed: bool) -> None:
    checkpoint: dict[str, Any] = {}
    state = PruningState(plan, narrowed)
    state.write(checkpoint)
    # Nothing but what any reader takes.
    assert PruningState.read(json.loads(json.dumps(checkpoint))) == state


def test_before_the_end_of_the_phase_there_is_no_plan() -> None:
    checkpoint: dict[str, Any] = {}
    PruningState().write(checkpoint)
    assert list(checkpoint) == ['pruning_state']
    assert PruningState.read(checkpoint) == PruningState()


def test_other_runs_say_nothing_of_it() -> None:
    assert PruningState.read({'state_dict': {}}) == PruningState(None, False)


def test_a_narrow_checkpoint_without_its_plan(plan: ChannelPlan) -> None:
    checkpoint: dict[str, Any] = {}
    PruningState(plan, True).write(checkpoint)
    del checkpoint['pruning_plan']
    with pytest.raises(PruningError, match='narrowed but has no pruning_plan'):
        PruningState.read(checkpoint)


@pytest.mark.parametrize(
    ('entry', 'found'), [({'version': 7}, '7'), ({}, 'None'), ('x', 'None')]
)
def test_other_versions_are_named(entry: Any, found: str) -> None:
    text = f'has thing of version {found}: this release reads version 1'
    with pytest.raises(PruningError, match=text):
        check_version('thing', entry, 1)
    check_version('thing', {'version': 1}, 1)
