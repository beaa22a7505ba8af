# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""``mmlapp.DeployedModel``: the narrowed model of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import nn

from mmlapp.core import ChannelPlan, PruningError
from mmlapp.registry import MODELS

from .architecture import build_architecture
from .arguments import check_unknown
from .inputs import InputShape
from .plans import carry_plans, narrow_model, rows_of
from .prunable import INPUT_SHAPE
from .widths import backbone_widths

Plan = str | Path | Mapping[str, Any]
EXPECTED = (
    'expected the path of a plan that tools/deploy.py wrote, or the plan '
    'itself, as text or as a dictionary'
)


@MODELS.register_module(name='DeployedModel')
def deployed_model(
    architecture: str | Mapping[str, Any],
    plan: Plan | Sequence[Plan],
    data_preprocessor: Mapping[str, Any] | None = None,
    prefix: str = '',
    input_shape: InputShape = INPUT_SHAPE,
    **settings: Any,
) -> nn.Module:
    """Builds a model of OpenMMLab and narrows it to a plan.

    No tracing, no pruner, no masks: a plain, smaller model into which a
    checkpoint of ``tools/deploy.py`` loads.

    Args:
        architecture (str or Mapping): Type of the dense model, its arguments
            following as arguments here, or its whole config.
        plan (str, Path or Mapping, or a sequence of them): The channel plan,
            as a dictionary or as JSON text, or the path of its file. Several
            are those of a model that was pruned again, in order.
        data_preprocessor (Mapping, optional): Passed on to the model.
        prefix (str): Name of the part of the plan's network that this model
            is, such as ``backbone.``: the pruned backbone of a classifier
            becomes that of a detector. The log says how wide its outputs
            are. Defaults to none, the whole network.
        input_shape (Sequence[int] or Mapping): Of the image at which the
            budget of the run counted costs, see ``PrunableModel``: what
            measures the model later takes it. The outputs of a part are
            measured on it. Defaults to (3, 224, 224).
        **settings (Any): Arguments of the model, if ``architecture`` is its
            type.

    Returns:
        nn.Module: The narrowed model.

    Raises:
        PruningError: For unknown arguments, and if the plan is damaged, does
            not fit the model or has no part of that name.

    Examples:
        >>> import torch
        >>> from mmlapp.core import attach
        >>> from mmlapp.engine import deployed_model
        >>> from mmlapp.models import CIFARResNet
        >>> pruner = attach(CIFARResNet(20), torch.rand(1, 3, 32, 32))
        >>> pruner.begin({'flops': 0.5}, steps=1)
        >>> pruner.step()
        >>> plan = pruner.plan().to_json()
        >>> model = deployed_model('mmlapp.CIFARResNet', plan, depth=20)
        >>> type(model).__name__, hasattr(model, 'pruner')
        ('CIFARResNet', False)
    """
    ours = signature(deployed_model).parameters
    # All but the last one, which takes the arguments of the architecture.
    check_unknown(architecture, settings, 'DeployedModel', list(ours)[:-1])
    plans = read_plans(plan)
    if prefix:
        plans = [one.below(prefix) for one in plans]
    model = build_architecture(architecture, settings, data_preprocessor)
    for one in plans:
        # In order: each plan is one of widths that the last one left.
        narrow_model(model, one)
    for one in plans:
        # Of every plan: a dimension may be cut by the first one alone.
        carry_plans(model, [*one.slices.items(), *rows_of(one.details)])
    if prefix:
        widths = backbone_widths(model, input_shape)
        text = f'DeployedModel: outputs of {type(model).__name__}: {widths}'
        print_log(text, logger='current')
    return model


def read_plans(plan: Plan | Sequence[Plan]) -> list[ChannelPlan]:
    """Reads one plan or several.

    Args:
        plan (str, Path or Mapping, or a sequence of them): See
            :func:`read_plan`.

    Raises:
        PruningError: As :func:`read_plan`, or if there are none.
    """
    if isinstance(plan, Sequence) and not isinstance(plan, str):
        if not plan:
            raise PruningError(f'plan={plan!r} is empty: {EXPECTED}')
        return [read_plan(one) for one in plan]
    return [read_plan(plan)]


def read_plan(plan: Plan) -> ChannelPlan:
    """Reads a plan in any of the forms that a config may hold.

    Args:
        plan (str, Path or Mapping): The plan as a dictionary, as JSON text,
            or the path of its file.

    Raises:
        PruningError: If it is no complete plan, or no such file exists.
    """
    if isinstance(plan, Mapping):
        return ChannelPlan.from_dict(plan)
    if not isinstance(plan, (str, Path)):
        raise PruningError(f'plan={plan!r:.80}: {EXPECTED}')
    # JSON: a path hardly begins so.
    if str(plan).lstrip().startswith('{'):
        return ChannelPlan.from_json(str(plan))
    if not Path(plan).is_file():
        raise PruningError(
            f'plan={str(plan)!r}: there is no such file; {EXPECTED}'
        )
    return ChannelPlan.load(plan)
