# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Reductions over channels that see the living ones alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import unwrap
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from ..errors import PruningError
from ..mixins import mix_in
from ..trace.reductions import REDUCTIONS, called_at
from .gate import GateSource, at_channels

AGAIN = (
    '{} reduces over channels in a part of its forward that is checkpointed, '
    'and that the backward runs again without masks. Switch that off there, '
    'as with with_cp=False, or leave what it reads alone with ignore'
)


@dataclass(frozen=True)
class LivingAxis:
    """A dimension of channels that something reduces.

    Args:
        source (GateSource): Holds the gate of all channels.
        channels (Tensor): Global channel of every index, -1 where none
            applies; ``[size]``.
        dim (int): The dimension.
    """

    source: GateSource
    channels: Tensor
    dim: int

    def living(self, x: Any) -> Any:
        """Returns a tensor without removed channels.

        Args:
            x (Tensor): What is to be reduced; what has other dimensions, as
                if it is narrow already, stays as it is.
        """
        fits = isinstance(x, Tensor) and x.dim() > self.dim
        if not fits or x.shape[self.dim] != len(self.channels):
            return x
        if not self.source.active:
            return x
        gate = at_channels(self.source.factor.detach(), self.channels)
        alive = gate > 0
        if alive.all():
            return x
        return x.index_select(self.dim, alive.nonzero()[:, 0])


class ReducesLiving:
    """Mixin of a module that reduces over channels."""

    # The compiler would run other code, in which nothing is at its place. It
    # is not imported before it runs, as by the optimizers of PyTorch.
    @_disable_dynamo
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module's own forward, whose reductions skip channels."""
        axes: Mapping[str, LivingAxis] = self.__dict__['_reduced']
        with _Skipping(axes, type(self).__name__, torch.is_grad_enabled()):
            return super().forward(*args, **kwargs)  # type: ignore[misc]


class _Skipping(TorchFunctionMode):
    """Gives reductions living channels, by where they are called.

    Args:
        axes (Mapping[str, LivingAxis]): What they reduce, by places.
        owner (str): What the module is called in messages.
        learns (bool): Whether a backward may follow.
    """

    def __init__(
        self, axes: Mapping[str, LivingAxis], owner: str, learns: bool
    ) -> None:
        super().__init__()
        self.axes, self.owner, self.learns = axes, owner, learns

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Calls a function, of living channels where it reduces them."""
        if func in REDUCTIONS and args:
            frame = sys._getframe()
            place, inside = called_at(frame)
            # That of a module inside, perhaps of the same class.
            axis = None if inside else self.axes.get(place)
            if axis is not None:
                if self.learns and _runs_again(frame):
                    raise PruningError(AGAIN.format(self.owner))
                args = (axis.living(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


def _runs_again(frame: FrameType | None) -> bool:
    """Whether a part of a module that is checkpointed calls something.

    A backward would run it without the module, and see removed channels.
    """
    while frame is not None and frame.f_code is not FORWARD:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


# The frame of a module that reduces; above it all may run again.
FORWARD = unwrap(ReducesLiving.forward).__code__


def reduce_living(module: nn.Module, axes: Mapping[str, LivingAxis]) -> None:
    """Makes reductions of a module skip removed channels, in place.

    Args:
        module (nn.Module): The module; its class becomes a subclass.
        axes (Mapping[str, LivingAxis]): What they reduce, by their places in
            the code.
    """
    mix_in(module, ReducesLiving)
    module.__dict__['_reduced'] = axes
