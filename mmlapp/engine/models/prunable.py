# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""``mmlapp.PrunableModel``: the user's model with a pruner and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmlapp.core import attach
from mmlapp.core.attach import COST_NAMES
from mmlapp.registry import MODELS

from .architecture import build_architecture, example_forward


@MODELS.register_module(name='PrunableModel')
def prunable_model(
    architecture: str | Mapping[str, Any],
    scope: str | Sequence[str] = 'backbone',
    ignore: str | Sequence[str] = (),
    unit: str | Mapping[str, Any] = 'channels',
    bypass: str | Mapping[str, Any] | None = None,
    method: str | Mapping[str, Any] = 'lapp',
    score: str | Mapping[str, Any] = 'l2',
    normalisation: str = 'rank',
    costs: Sequence[str | Mapping[str, Any]] = COST_NAMES,
    divisor: int = 1,
    input_shape: Sequence[int] = (3, 224, 224),
    data_preprocessor: Mapping[str, Any] | None = None,
    **settings: Any,
) -> nn.Module:
    """Builds a model of OpenMMLab and makes it prunable in place.

    The result is the model itself: its class and its state-dict keys stay,
    so that every hook, wrapper, evaluator and inferencer works. What is said
    by a name alone may also be a dictionary of it as ``type`` and settings.

    Args:
        architecture (str or Mapping): Type of the model, its arguments
            following as arguments here, or its whole config.
        scope (str or Sequence[str]): Patterns of module names that may be
            pruned. Defaults to ``backbone``.
        ignore (str or Sequence[str]): Patterns to leave alone. Defaults to
            none.
        unit (str or Mapping): What is removed: ``channels``, or ``filters``
            beside a bypass. Defaults to ``channels``.
        bypass (str or Mapping, optional): Branch beside every pruned layer,
            such as ``depthwise``. Defaults to none.
        method (str or Mapping): Who decides: ``lapp``, ``uniform``,
            ``random`` or a registered one. Defaults to ``lapp``.
        score (str or Mapping): Importance score. Defaults to ``l2``.
        normalisation (str): How scores of different layers become
            comparable. Defaults to ``rank``.
        costs (Sequence[str or Mapping]): What can be a target. Defaults to
            ``flops`` and ``parameters``.
        divisor (int): What the number of kept channels of a group is a
            multiple of, unless all are kept. Defaults to 1.
        input_shape (Sequence[int]): Channels, height and width of the image
            at which costs are counted. Defaults to (3, 224, 224).
        data_preprocessor (Mapping, optional): Passed on to the model.
        **settings (Any): Arguments of the model, if ``architecture`` is its
            type.

    Returns:
        nn.Module: The model, with a child ``pruner``.

    Raises:
        PruningError: For unknown names, a scope that matches nothing, a
            divisor below 1, or a model that does not run on ``input_shape``.
    """
    model = build_architecture(architecture, settings, data_preprocessor)
    pruner = attach(
        model,
        example_forward(model, input_shape),
        scope=scope,
        ignore=ignore,
        unit=unit,
        bypass=bypass,
        method=method,
        score=score,
        normalisation=normalisation,
        costs=costs,
        divisor=divisor,
    )
    pruner.input_shape = tuple(input_shape)
    if pruner.method.adds_loss:
        handle = model.register_forward_hook(_add_loss, with_kwargs=True)
        pruner.hook_ids.append(handle.id)
    return model


def _add_loss(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> dict[str, Tensor] | None:
    """Puts ``loss_pruning`` beside the task losses.

    ``parse_losses`` of MMEngine sums and logs every key with ``loss`` in it,
    in plain, mixed-precision and distributed training alike.
    """
    mode = kwargs.get('mode', args[2] if len(args) > 2 else None)
    if mode != 'loss' or not isinstance(output, dict):
        return None
    pruner: Any = module.pruner
    return {**output, 'loss_pruning': pruner.loss()}
