# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Large images cut to a corner, on which a network runs much faster.

What a network is given is cut where it can be. What else comes with images
may tell their size, such as the samples of a detector: who made it up can
make it for a corner, too, and says how by an attribute of the example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
# Attribute of an example: a function without arguments that runs the network
# on a corner of large images; None where there is none.
ON_CORNER = 'on_corner'


class Corner:
    """Cuts large images that a network is given.

    Args:
        model (nn.Module): The network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        # Whether any were large so far.
        self.large = False

    def of(self, forward: Callable[[], Any]) -> Callable[[], Any]:
        """Returns how an example runs on a corner by itself, or itself.

        Args:
            forward (Callable): Runs the network on an example.
        """
        own: Callable[[], Any] | None = getattr(forward, ON_CORNER, None)
        self.large |= own is not None
        return forward if own is None else own

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
        large = any(is_large(leaf, LARGE) for leaf in leaves)
        self.large |= large
        if large and not is_plain(leaves):
            raise RuntimeError(TOLD)
        return cut_images(arguments, CORNER, LARGE)


def is_plain(leaves: Sequence[Any]) -> bool:
    """Whether none of what goes with images can tell where things are.

    Args:
        leaves (Sequence): What is given, without containers.
    """
    return all(isinstance(leaf, PLAIN) for leaf in leaves)


def is_large(value: Any, above: int) -> bool:
    """Whether it is a tensor of large images, [..., C, H, W].

    Args:
        value (Any): Anything.
        above (int): The edge that both edges of large ones exceed.
    """
    return (
        isinstance(value, Tensor)
        and value.dim() >= 4
        and min(value.shape[-2:]) > above
    )


def cut_images(arguments: Any, edge: int, above: int) -> Any:
    """Cuts large images to a corner; all else stays as it is.

    Args:
        arguments (Any): Tensors in nested containers.
        edge (int): Edge of the corner.
        above (int): See :func:`is_large`.

    Examples:
        >>> import torch
        >>> cut_images([torch.rand(1, 3, 90, 80)], 64, 70)[0].shape
        torch.Size([1, 3, 64, 64])
    """
    return tree_map_only(
        Tensor,
        lambda t: t[..., :edge, :edge] if is_large(t, above) else t,
        arguments,
    )
