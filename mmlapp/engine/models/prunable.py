# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""``mmlapp.PrunableModel``: the user's model with thresholds and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmlapp.core import Bypass, Controller, attach
from mmlapp.registry import MODELS

from .architecture import build_architecture, example_forward


@MODELS.register_module(name='PrunableModel')
def prunable_model(
    architecture: str | Mapping[str, Any],
    scope: str | Sequence[str] = 'backbone',
    ignore: str | Sequence[str] = (),
    bypass: Mapping[str, Any] | None = None,
    score: str = 'l2',
    normalisation: str = 'rank',
    surrogate: str = 'sigmoid',
    width: float = 0.1,
    controller: Mapping[str, Any] | None = None,
    divisor: int = 1,
    input_shape: Sequence[int] = (3, 224, 224),
    data_preprocessor: Mapping[str, Any] | None = None,
    **settings: Any,
) -> nn.Module:
    """Builds a model of OpenMMLab and makes it prunable in place.

    The result is the model itself: its class and its state-dict keys stay,
    so that every hook, wrapper, evaluator and inferencer works.

    Args:
        architecture (str or Mapping): Type of the model, its arguments
            following as arguments here, or its whole config.
        scope (str or Sequence[str]): Patterns of module names that may be
            pruned. Defaults to ``backbone``.
        ignore (str or Sequence[str]): Patterns to leave alone. Defaults to
            none.
        bypass (Mapping, optional): ``type`` and ``placement`` of the bypass
            of every pruned convolution, see :class:`mmlapp.core.Bypass`.
            Defaults to none.
        score (str): Importance score. Defaults to ``l2``.
        normalisation (str): How scores of different layers become
            comparable. Defaults to ``rank``.
        surrogate (str): Surrogate of the mask's derivative. Defaults to
            ``sigmoid``.
        width (float): Its width. Defaults to 0.1.
        controller (Mapping, optional): Arguments of
            :class:`mmlapp.core.Controller`.
        divisor (int): What the number of kept channels of a group is a
            multiple of, unless all are kept. Defaults to 1.
        input_shape (Sequence[int]): Channels, height and width of the image
            at which FLOPs are counted. Defaults to (3, 224, 224).
        data_preprocessor (Mapping, optional): Passed on to the model.
        **settings (Any): Arguments of the model, if ``architecture`` is its
            type.

    Returns:
        nn.Module: The model, with a child ``lapp``.

    Raises:
        PruningError: For unknown names, a scope that matches nothing, a
            divisor below 1, or a model that does not run on ``input_shape``.
    """
    model = build_architecture(architecture, settings, data_preprocessor)
    lapp = attach(
        model,
        example_forward(model, input_shape),
        scope=scope,
        ignore=ignore,
        bypass=Bypass(**(bypass or {})),
        score=score,
        normalisation=normalisation,
        surrogate=surrogate,
        width=width,
        controller=Controller(**(controller or {})),
        divisor=divisor,
    )
    lapp.input_shape = tuple(input_shape)
    model.register_forward_hook(_add_flops_loss, with_kwargs=True)
    return model


def _add_flops_loss(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> dict[str, Tensor] | None:
    """Puts ``loss_flops`` beside the task losses.

    ``parse_losses`` of MMEngine sums and logs every key with ``loss`` in it,
    in plain, mixed-precision and distributed training alike.
    """
    mode = kwargs.get('mode', args[2] if len(args) > 2 else None)
    if mode != 'loss' or not isinstance(output, dict):
        return None
    lapp: Any = module.lapp
    return {**output, 'loss_flops': lapp.loss()}
