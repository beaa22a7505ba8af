# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The user's own model config inside ours."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from mmlapp.core import PruningError


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
        # A copy: models add to the configs that they are built from.
        config = copy.deepcopy(dict(architecture))
    else:
        config = dict(type=architecture, **copy.deepcopy(dict(settings)))
    if data_preprocessor is not None:
        # As the Runner does it: the model's own one counts.
        config.setdefault('data_preprocessor', data_preprocessor)
    model: nn.Module = MODELS.build(config)
    return model
