# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Operators that ONNX's exporter lacks, by others that it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import without_warnings


def adaptive_max_pool2d(
    x: Tensor, size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The pooling of equal windows, where these divide the image.

    Args:
        x (Tensor): ``[..., h, w]``.
        size (Sequence[int]): Height and width of the output.

    Returns:
        tuple[Tensor, Tensor]: Maxima and where they are, or
        ``NotImplemented``, which leaves the operator as it is.

    Examples:
        >>> x = torch.tensor([[[1.0, 2.0, 7.0, 0.0]]])
        >>> adaptive_max_pool2d(x, (1, 2))[0]
        tensor([[[2., 7.]]])
    """
    height, width = x.shape[-2:]
    if height % size[0] or width % size[1]:
        return NotImplemented
    # Windows of adaptive pooling are equal, and do not overlap, only if the
    # output divides the image: kernel = stride = [h / out_h, w / out_w].
    window = height // size[0], width // size[1]
    found: tuple[Tensor, Tensor] = (
        torch.ops.aten.max_pool2d_with_indices.default(x, window, window)
    )
    return found


# Operator of torch: what takes its place.
DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.adaptive_max_pool2d.default: adaptive_max_pool2d
}


def decomposed(program: Any) -> Any:
    """Returns a graph of operators that ONNX has, as far as these are known.

    Args:
        program (ExportedProgram): The graph.
    """
    found = {node.target for node in program.graph.nodes}
    table = {op: by for op, by in DECOMPOSITIONS.items() if op in found}
    if not table:
        return program
    with without_warnings():
        return program.run_decompositions(table)
