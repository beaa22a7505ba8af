# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Suppression of overlapping boxes, whose kernels know float32 alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

# Of mmcv's extension; those for rotated boxes know float64.
KERNELS = 'nms', 'softnms', 'nms_match'


@contextmanager
def suppression_in_float64() -> Iterator[None]:
    """Lets a network in float64 suppress boxes, as one in float32 does.

    Boxes are ranked by scores. Two networks that compute the same in float32
    may choose other ones, for scores that lie close together are rounded; in
    float64 they do not, and the kernels round equal numbers equally.
    """
    kernels = sys.modules.get('mmcv._ext')
    if kernels is None:
        yield
        return
    single = {name: _in_single(getattr(kernels, name)) for name in KERNELS}
    with patch.multiple(kernels, **single):
        yield


def _in_single(kernel: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        given = args, kwargs
        # Rounded for the kernel alone.
        args, kwargs = tree_map_only(Tensor, _single, given)
        before = tree_map_only(Tensor, Tensor.clone, (args, kwargs))
        found = kernel(*args, **kwargs)
        for old, new, out in zip(
            *map(tree_leaves, (before, (args, kwargs), given)), strict=True
        ):
            # Some write into what they are given.
            if isinstance(out, Tensor) and not torch.equal(old, new):
                out.copy_(new)
        return found

    return run


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float64 else tensor
