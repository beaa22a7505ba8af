# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The user's own model config inside ours, and an example to run it on."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmlapp.core import PruningError

from .arguments import check_shape
from .proposals import chosen_proposals


def build_architecture(
    architecture: str | Mapping[str, Any],
    settings: Mapping[str, Any],
    data_preprocessor: Mapping[str, Any] | None,
) -> nn.Module:
    """Builds the model that the user's config describes.

    Args:
        architecture (str or Mapping): Type of the model, with its arguments
            in ``settings``, or its whole config.
        settings (Mapping): Arguments of the model.
        data_preprocessor (Mapping, optional): What the Runner passes on for
            configs that keep it at top level, as mmpretrain's do.

    Returns:
        nn.Module: The model.

    Raises:
        PruningError: If arguments are given both ways.
    """
    if isinstance(architecture, Mapping):
        if settings:
            raise PruningError(
                f'unexpected arguments {sorted(settings)}: architecture is a '
                'whole config, put them there'
            )
        config = copy.deepcopy(dict(architecture))
    else:
        config = dict(type=architecture, **copy.deepcopy(dict(settings)))
    if data_preprocessor is not None:
        config.setdefault('data_preprocessor', data_preprocessor)
    model: nn.Module = MODELS.build(config)
    return model


def example_forward(
    model: nn.Module, input_shape: Sequence[int]
) -> Callable[[], Any]:
    """Returns a function that runs a model on one random image.

    The region proposals of a two-stage detector are chosen by rank, which a
    rounding error may change: all calls get those of the first one.

    Args:
        model (nn.Module): A model with MMEngine's
            ``forward(inputs, data_samples, mode='tensor')``.
        input_shape (Sequence[int]): Channels, height and width.

    Raises:
        PruningError: If the shape is not three positive numbers.
    """
    image, samples = example_inputs(model, input_shape)
    known: list[Any] = []

    def first(proposals: Any) -> Any:
        if not known:
            known.append(proposals)
        return known[0]

    def forward() -> Any:
        try:
            with chosen_proposals(model, first) as raw:
                output = model(image, samples, mode='tensor')
                return [output, *raw]
        except Exception as error:
            raise PruningError(
                'the model does not run on an image of input_shape='
                f'{tuple(image.shape[1:])} ({type(error).__name__}: {error}). '
                'Set input_shape to what it is trained on'
            ) from error

    return forward


def example_inputs(
    model: nn.Module, input_shape: Sequence[int]
) -> tuple[Tensor, list[Any] | None]:
    """Makes one random image, the same at every call, and what goes with it.

    Args:
        model (nn.Module): The model that will read it.
        input_shape (Sequence[int]): Channels, height and width.

    Returns:
        tuple[Tensor, list or None]: The image, shape ``[1, *input_shape]``,
        and for detectors a sample that tells its size.

    Raises:
        PruningError: If the shape is not three positive numbers.
    """
    shape = check_shape(input_shape)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, *shape, generator=generator)
    device = next(model.parameters()).device
    return image.to(device), _samples(model, shape)


def _samples(model: nn.Module, shape: tuple[int, ...]) -> list[Any] | None:
    """Detectors of mmdet need to know the size of the image."""
    bases = {base.__module__.partition('.')[0] for base in type(model).mro()}
    if 'mmdet' not in bases or 'mmdet' not in sys.modules:
        return None
    from mmdet.structures import DetDataSample

    size = shape[1:]
    return [
        DetDataSample(
            metainfo=dict(
                img_shape=size,
                ori_shape=size,
                pad_shape=size,
                batch_input_shape=size,
                scale_factor=(1.0, 1.0),
            )
        )
    ]
