# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the forward of a teacher costs, counted before it is there."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from ..checkpoints.random_state import same_random_numbers
from ..deployment.recipe import dense_config, is_deployed
from ..models.complexity import counted_flops, operator_flops
from ..models.inputs import InputShape
from ..training.step_cost import FORWARD, TeacherCost
from .teacher import TeacherSource, config_of


def teacher_cost(source: TeacherSource, cfg: Mapping[str, Any]) -> TeacherCost:
    """Returns what a teacher adds to a training step of the dense network.

    It is counted as if it always ran to its end. One of the run's own config
    counts as the dense network, also if its weights are narrow; of another
    config it is built, without weights, and both are counted.

    Args:
        source (TeacherSource): Where it comes from.
        cfg (Mapping): Of the run.
    """
    # Over the forward of the dense network, which is a third of its step.
    share = 1.0
    if source.config is not None:
        run = cfg if isinstance(cfg, Config) else Config(dict(cfg))
        shape = run.model.input_shape
        other = config_of(source, run)
        # Both at the shape of the run: a teacher sees the images of the run.
        share = _flops(other, run, shape) / _flops(run, run, shape)
    return TeacherCost(FORWARD * share, late=source.is_dense)


def _flops(found: Config, run: Config, shape: InputShape) -> int:
    """Multiply-adds of a dense model, or of a deployed one."""
    narrow = is_deployed(found.model)
    settings = copy.deepcopy(found.model) if narrow else dense_config(found)
    scope = found.get('default_scope') or run.get('default_scope')
    with DefaultScope.overwrite_default_scope(scope), same_random_numbers():
        model = MODELS.build(settings)
        return counted_flops(operator_flops(model.eval(), shape)[0])
