# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The model of a config and a checkpoint, dense or slim."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmlapp.core import PruningError

from ..checkpoints.reading import PREFIX, load_checkpoint, read_trained
from ..checkpoints.weights import load_weights
from ..deployment.masked import build_model, narrow_weights_model
from ..deployment.recipe import dense_config, is_prunable


def trained_model(cfg: Config, checkpoint: str | Path) -> Any:
    """Builds a model and loads its weights, every one of them.

    Args:
        cfg (Config): A deployed config, one of any plain model, or that of a
            pruning run whose checkpoint is narrow.
        checkpoint (str or Path): The checkpoint that belongs to it.

    Returns:
        nn.Module: In evaluation mode, without masks.

    Raises:
        PruningError: If the two do not belong together, or the checkpoint
            still has masks.
    """
    if not isinstance(cfg.get('model'), Mapping):
        raise PruningError(
            f'config={cfg.filename!r} has no model: give the config that '
            'tools/deploy.py wrote, or one of mmpretrain or mmdet'
        )
    if is_prunable(cfg.model):
        trained = read_trained(checkpoint)
        if trained.masked:
            raise PruningError(
                f'checkpoint={str(checkpoint)!r} still has masks, and is as '
                'large as before: run tools/deploy.py, and give the config '
                'and the checkpoint that it writes'
            )
        return narrow_weights_model(cfg, trained)
    return _plain_model(cfg, checkpoint)


def _plain_model(cfg: Config, checkpoint: str | Path) -> nn.Module:
    # Many published weights are in the format of torch before 1.6.
    data = load_checkpoint(checkpoint, legacy=True)
    # Of a checkpoint of MMEngine, or a bare state dict.
    found = data.get('state_dict', data)
    if isinstance(found, Mapping) and any(
        name.startswith(PREFIX) for name in found
    ):
        raise PruningError(
            f'checkpoint={str(checkpoint)!r} is of a pruning run: give the '
            'config of that run, or what tools/deploy.py writes'
        )
    model: nn.Module = build_model(cfg)
    load_weights(model, found, f'checkpoint={str(checkpoint)!r}')
    return model.eval()


def dense_model(cfg: Config) -> nn.Module:
    """Builds the dense model of a config, with weights of no training.

    Args:
        cfg (Config): See :func:`trained_model`.
    """
    model: nn.Module = MODELS.build(dense_config(cfg))
    model.eval()
    return model
