# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Networks that choose by what they compute, such as detectors."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose indices depend on the order of numbers.
_NAMES = 'argmax argmin argsort kthvalue median sort topk'
ORDERS = {f'aten::{name}' for name in _NAMES.split()}


class Choices(TorchDispatchMode):
    """Notes whether numbers are put in an order.

    Examples:
        >>> import torch
        >>> with Choices() as choices:
        ...     _ = torch.rand(3).sort()
        >>> choices.made
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: bool = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.made |= func._schema.name in ORDERS
        return func(*args, **(kwargs or {}))
