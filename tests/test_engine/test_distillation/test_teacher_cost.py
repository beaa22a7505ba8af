# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a teacher costs, beside torch's own counter."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from teachers import build, config_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlapp.engine import Distiller
from mmlapp.engine.training.step_cost import TeacherCost


def measured(model: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.rand(1, 3, 8, 8))
    return counter.get_total_flops()


def of_depth(depth: int, **changes: Any) -> Config:
    config = config_of(**changes)
    config.model.backbone.depth = depth
    return config


@pytest.mark.parametrize(
    ('teacher', 'late'),
    [(dict(checkpoint='a.pth'), False), ('dense', True)],
)
def test_of_the_runs_own_config_as_the_dense_network(
    teacher: Any, late: bool
) -> None:
    found = Distiller(teacher).teacher_cost(config_of())
    assert found == TeacherCost(1 / 3, late)


@pytest.mark.parametrize('prunable', [False, True])
def test_of_another_config_as_what_it_builds(
    prunable: bool, tmp_path: Path
) -> None:
    other = of_depth(14, prunable=prunable)
    (tmp_path / 'other.py').write_text(other.pretty_text)
    source = dict(checkpoint='a.pth', config=str(tmp_path / 'other.py'))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    # Also as a plain dictionary, which `equal_cost` takes.
    found = Distiller(source).teacher_cost(copy.deepcopy(dict(config_of())))
    assert torch.equal(torch.rand(1), expected)
    share = measured(build(of_depth(14, prunable=False))) / measured(
        build(config_of(prunable=False))
    )
    assert share > 1.5
    assert found.share == pytest.approx(share / 3)
    assert not found.late
