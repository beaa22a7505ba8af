# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Random numbers that are the same for any number of channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .counts import GOLDEN

# Operators that fill a tensor with random numbers, with or without the
# underscore of in-place variants.
_NAMES = (
    'bernoulli cauchy exponential geometric log_normal normal rand rand_like '
    'randn randn_like uniform'
)
DRAWS = {f'aten::{name}' for name in _NAMES.split()}


class SteadyDraws(TorchDispatchMode):
    """Lets every tensor that is drawn have one value.

    A narrowed network draws fewer numbers than its masked twin: with one
    value for each draw, both compute with the same noise. The values, within
    (0, 1), differ from draw to draw, so that what draws until it has another
    one comes to an end.

    Examples:
        >>> import torch
        >>> with SteadyDraws():
        ...     torch.randn(2), torch.rand(3)
        (tensor([0.6180, 0.6180]), tensor([0.2361, 0.2361, 0.2361]))
    """

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        drawn = func._schema.name.removesuffix('_') in DRAWS
        if drawn and isinstance(out, Tensor) and out.is_floating_point():
            self._count += 1
            out.fill_(self._count * GOLDEN % 1)
        return out
