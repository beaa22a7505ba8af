# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What of a model of OpenMMLab is timed: its network, without the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmlapp.core import PruningError

from ..deployment.recipe import counted_shape, dense_config, own_settings
from ..export.network import Network
from ..models.arguments import check_settings
from ..models.default_scope import default_scope_of
from ..models.example import example_of
from ..models.inputs import InputShape, example_batch, shape_text
from .subject import Subject

# Arguments of ``PrunableModel`` that a table depends on.
ASKED = (
    'scope',
    'ignore',
    'keep_streams',
    'unit',
    'bypass',
    'input_shape',
    'unused',
)


def one_image(model: nn.Module, input_shape: InputShape) -> Tensor:
    """Returns what the network of a model is timed on, ``[1, c, h, w]``.

    Args:
        model (nn.Module): The model.
        input_shape (Sequence[int] or Mapping): Of an image.

    Raises:
        PruningError: If the model reads anything but one batch of images.
    """
    batch = example_batch(model, input_shape)
    images = batch.args[0] if len(batch.args) == 1 else None
    if not isinstance(images, Tensor) or images.dim() != 4:
        raise PruningError(
            f'input_shape={shape_text(input_shape)}: only models that read '
            'one batch of images are timed. Give channels, height and width'
        )
    # The batch of a setting is repeated from one image.
    return images[:1]


def subject_of(
    cfg: Config, settings: Mapping[str, Any] | None = None
) -> Subject:
    """Builds the dense model of a config and finds what can be pruned.

    Args:
        cfg (Config): Of a pruning run, or of any model.
        settings (Mapping, optional): ``scope`` and other arguments of
            ``PrunableModel`` instead of the config's. Defaults to none.

    Raises:
        PruningError: As :func:`mmlapp.core.analyse`.
    """
    own = own_settings(cfg.model)
    chosen = {**{key: own[key] for key in ASKED}, **(settings or {})}
    check_settings(chosen)
    shape = chosen['input_shape']
    with default_scope_of(cfg):
        model: nn.Module = MODELS.build(dense_config(cfg))
        model.eval()
        images = one_image(model, shape)
        network = Network.find(model, images)
        example = example_of(model, shape, chosen['unused'])
        analysis = example.analyse(chosen)
    return Subject(
        type(model).__name__,
        model,
        analysis,
        images,
        # The same part of a narrowed model, found once.
        network.of,
    )


def origin_of_shape(
    cfg: Config, settings: Mapping[str, Any] | None = None
) -> str:
    """Says where the shape of the input comes from.

    Args:
        cfg (Config): See :func:`subject_of`.
        settings (Mapping, optional): See there. Defaults to none.
    """
    if 'input_shape' in (settings or {}):
        return 'as you said'
    if counted_shape(cfg.model) is not None:
        return 'at which the budget of the run is counted'
    return (
        'the default of PrunableModel, since the config says none; '
        '--input-shape takes another'
    )


def check_batch(subject: Subject, batch: int) -> None:
    """Refuses a batch on which a model does not run.

    Args:
        subject (Subject): The model.
        batch (int): Images at once.

    Raises:
        PruningError: With the batch, and what the model says.
    """
    # [1, c, h, w] -> [batch, c, h, w].
    images = subject.images.repeat(batch, 1, 1, 1)
    try:
        with torch.no_grad():
            subject.part(subject.model)(images)
    except Exception as error:
        raise PruningError(
            f'batch={batch}: {subject.name} does not run on so many images '
            f'({type(error).__name__}: {error}). Give 1'
        ) from error
