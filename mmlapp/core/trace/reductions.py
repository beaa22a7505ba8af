# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Means, maxima and deviations over channels, of the living ones alone.

Spatial attention (CBAM, arXiv 1807.06521) and norms that are written out
reduce activations over their channels, where zeros of masked ones would count.
While channels are masked such a function is therefore given the living ones,
as it will when the network is narrowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import unwrap
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .labels import Axis
from .record import INPUT_REASON, Reduction

if TYPE_CHECKING:
    from .tracer import Tracer

NAMES = (
    'amax',
    'amin',
    'max',
    'mean',
    'min',
    'norm',
    'prod',
    'std',
    'sum',
    'var',
)
# Reductions, as a forward calls them: their first argument is what they
# reduce.
REDUCTIONS: frozenset[Any] = frozenset(
    {
        *(getattr(torch, name) for name in NAMES),
        *(getattr(Tensor, name) for name in NAMES),
        torch.linalg.vector_norm,
        torch.std_mean,
        torch.var_mean,
    }
)


# What saves no activations of a function that it runs.
NAME = 'checkpoint'
# What a handler of functions is called, and where PyTorch's code lies.
HANDLER, TORCH = (
    '__torch_function__',
    str(Path(torch.__file__).parent / '_')[:-1],
)


def called_at(frame: FrameType) -> tuple[str, bool]:
    """Where in the code of a network a function is called.

    Of hooks that measure what a part of it gave the place is another one.

    Args:
        frame (FrameType): Of the handler that was given the function.

    Returns:
        tuple[str, bool]: The place, and whether the same handler of another
        object was given the function before.
    """
    own, before = frame.f_code, False
    code = own
    while frame.f_back is not None:
        frame = frame.f_back
        code = frame.f_code
        before |= code is own
        if code.co_name != HANDLER and not code.co_filename.startswith(TORCH):
            break
    return f'{code.co_name}:{code.co_firstlineno}:{frame.f_lasti}', before


def checkpoints(module: nn.Module) -> bool:
    """Whether the forward of a module asks for activation checkpointing.

    A function that it lets run once more in the backward would then see
    removed channels.

    Args:
        module (nn.Module): The module.

    Examples:
        >>> checkpoints(nn.Linear(2, 1))
        False
    """
    forward: Any = unwrap(type(module).forward)
    code = getattr(forward, '__code__', None)
    if code is None:
        return False
    # By its own name, as in `cp.checkpoint`, or by another one.
    used = [forward.__globals__.get(name) for name in code.co_names]
    return NAME in code.co_names or any(v is checkpoint for v in used)


class Reductions:
    """Notes reductions over channels, by where they are called.

    Args:
        tracer (Tracer): Receives ties, and what is noted.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        # Of the function that runs: where, and what it reduces.
        self._place = ''
        self._given: Any = None
        # Whether autograd knows what follows a reduction backwards.
        self._derived = True

    @contextmanager
    def none(self) -> Iterator[None]:
        """Lets no reduction skip: somebody has written its gradient.

        What is computed backwards then, over all channels, nobody sees.
        """
        before, self._derived = self._derived, False
        try:
            yield
        finally:
            self._derived = before

    def begin(self, func: Any, args: Sequence[Any], frame: FrameType) -> None:
        """Is told of a function before it runs.

        Args:
            func (Callable): Any function.
            args (Sequence): Its arguments by position.
            frame (FrameType): Of the handler that was given it.
        """
        self._given = None
        if func in REDUCTIONS and args:
            (self._place, _), self._given = called_at(frame), args[0]

    def can_skip(self, tensor: Tensor, dim: int, axis: Axis) -> bool:
        """Whether masks will give the running reduction living channels.

        Args:
            tensor (Tensor): What is reduced.
            dim (int): Its only dimension of channels that is.
            axis (Axis): Labels along it.
        """
        module = self.tracer.stack[-1] if self.tracer.stack else None
        name = self.tracer.running()
        # The network itself keeps its class.
        if (
            module is None
            or not name
            or tensor is not self._given
            or not self._derived
            or axis.grid is not None
            or 'forward' in vars(module)
            or checkpoints(module)
        ):
            return False
        key = name, self._place
        known = self.tracer.trace.reductions.get(key)
        if known is not None:
            if known.dim != dim or len(known.ids) != len(axis.ids):
                return False
            self.tracer.graph.unite(known.ids, axis.ids, INPUT_REASON)
        self.tracer.trace.reductions[key] = Reduction(dim, axis.ids)
        self.tracer.trace.summed.append(axis.ids)
        return True
