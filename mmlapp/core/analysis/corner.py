# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Large images cut to a corner, on which a network runs much faster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import NoneType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._pytree import tree_leaves, tree_map_only

# Edge of the corner that images are cut to, and above which they are.
CORNER, LARGE = 64, 96
# What can go with images without telling where things are in them.
PLAIN = Tensor, str, int, float, NoneType
TOLD = 'what goes with the images may tell their size'


class Corner:
    """Cuts large images that a network is given.

    Args:
        model (nn.Module): The network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        # Whether any were large so far.
        self.large = False

    @contextmanager
    def cutting(self, running: Sequence[nn.Module]) -> Iterator[None]:
        """Cuts what the network is given, or parts of it by a function.

        Args:
            running (Sequence[nn.Module]): Its running modules at any time,
                innermost last.
        """

        def whole(module: nn.Module, args: Any, kwargs: Any) -> Any:
            return self._cut((args, kwargs))

        def part(module: nn.Module, args: Any) -> Any:
            # A function may call backbone and head and not the network.
            outermost = len(running) == 1 and running[0] is module
            if not outermost or module is self.model:
                return None
            return self._cut(args)

        handles = (
            self.model.register_forward_pre_hook(whole, with_kwargs=True),
            hooks.register_module_forward_pre_hook(part),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _cut(self, arguments: Any) -> Any:
        leaves = tree_leaves(arguments)
        large = any(isinstance(a, Tensor) and _large(a) for a in leaves)
        self.large |= large
        if large and not all(isinstance(a, PLAIN) for a in leaves):
            raise RuntimeError(TOLD)
        return tree_map_only(Tensor, _corner, arguments)


def _large(tensor: Tensor) -> bool:
    """Whether these are large images, [..., C, H, W]."""
    return tensor.dim() >= 4 and min(tensor.shape[-2:]) > LARGE


def _corner(tensor: Tensor) -> Tensor:
    return tensor[..., :CORNER, :CORNER] if _large(tensor) else tensor
