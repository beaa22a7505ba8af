# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether a model may be narrowed, tried on a copy."""

from __future__ import annotations

import copy

from mmengine import dist
from mmengine.runner import Runner
from torch import nn

from mmlapp.core import ChannelPlan, PruningError, narrow
from mmlapp.core.compare import DEPLOYED_TOLERANCE

from ..models.comparison import Comparison, random_probes, runnable
from ..models.inputs import InputShape
from .narrowing import check_optimizer
from .parts import unwrap


def find_obstacle(
    runner: Runner, plan: ChannelPlan, input_shape: InputShape | None
) -> str | None:
    """Returns what speaks against narrowing, on any of the processes.

    Args:
        runner (Runner): The runner; all processes must call this.
        plan (ChannelPlan): What to keep.
        input_shape (optional): See :func:`try_narrowing`.
    """
    reason = None
    try:
        check_optimizer(runner)
        try_narrowing(unwrap(runner.model), plan, input_shape)
    except PruningError as error:
        reason = str(error)
    # All processes narrow or none: gradients are averaged by shape.
    reasons = dist.all_gather_object(reason)
    return next((text for text in reasons if text is not None), None)


def try_narrowing(
    model: nn.Module, plan: ChannelPlan, input_shape: InputShape | None
) -> None:
    """Compares a narrowed copy with the masked model on a random image.

    In the mode ``predict`` too, if the masked model has it; in ``loss`` the
    narrowed one has to run, with what training has made since it was built.

    Args:
        model (nn.Module): The masked model; it stays as it is.
        plan (ChannelPlan): What to keep.
        input_shape (Sequence[int] or Mapping, optional): What it is run on;
            without it there is no comparison.

    Raises:
        PruningError: If they differ, or the model does not run on the image.
    """
    if input_shape is None:
        return
    masked = copy_of(model)
    probe = random_probes(input_shape)[0]
    predict, _ = runnable(masked, probe.in_mode('predict'))
    probes = [probe] if predict is None else [probe, predict]
    # Asked of the masked model first: what it cannot do itself says nothing of
    # the narrowed one.
    loss, _ = runnable(masked, probe.in_mode('loss'))
    comparison = Comparison(masked, probes)
    slim = narrow(masked, plan)
    for check in comparison.check(slim):
        if not check.passed:
            raise PruningError(
                f'on {check.name} the narrowed model differs from the masked '
                f'one by {check.error:.2g}, more than {DEPLOYED_TOLERANCE:g}'
            )
    # Boxes that are assigned to targets may differ by rounding alone.
    still, reason = (None, '') if loss is None else runnable(slim, loss)
    if loss is not None and still is None:
        raise PruningError(
            f'in mode loss the narrowed model does not run ({reason}): '
            'something beside it keeps the shape of before, such as a copy '
            'that was made in training. Make it with the model'
        )


def copy_of(model: nn.Module) -> nn.Module:
    """Returns a copy that runs by itself.

    Args:
        model (nn.Module): The model.
    """
    found = copy.deepcopy(model)
    for module in found.modules():
        # Activation checkpointing puts one here that is bound to the original.
        module.__dict__.pop('forward', None)
    return found
