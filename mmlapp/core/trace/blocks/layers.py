# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Convolutions, linear layers and embeddings."""

from __future__ import annotations

from typing import Any

from .registry import register_block
from .shapes import shape_of


def adjust_convolution(module: Any) -> None:
    """Channel counts of a convolution follow its weight and groups.

    The weight is [out, in/g, ...], of a transposed one [in, out/g, ...]: the
    second size times the groups is the side that the groups divide.
    """
    first, second = shape_of(module, 'weight')[:2]
    # [9, 2, 3, 3] with 3 groups: 9 out and 3 * 2 in, turned 9 in and 6 out.
    divided = second * int(module.groups)
    turned = bool(getattr(module, 'transposed', False))
    module.out_channels = divided if turned else first
    module.in_channels = first if turned else divided


def adjust_linear(module: Any) -> None:
    """The weight is [out, in]."""
    module.out_features, module.in_features = shape_of(module, 'weight')


def adjust_embedding(module: Any) -> None:
    """The weight is [rows, out], and no row ever goes."""
    module.embedding_dim = shape_of(module, 'weight')[1]


register_block('_ConvNd', adjust=adjust_convolution)
register_block('Linear', adjust=adjust_linear)
# Of PyTorch alone: others are called so as well.
register_block(
    'torch.nn.modules.sparse.Embedding',
    'torch.nn.modules.sparse.EmbeddingBag',
    adjust=adjust_embedding,
)
