# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One forward without several channels, each on a copy of the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from ..mask.gate import ParameterMask
from ..mask.living import RunsOnLiving
from ..mask.reducing import ReducesLiving

CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d


@dataclass(frozen=True)
class MaskedMap:
    """A map whose channels are zero where a mask is.

    Args:
        module (nn.Module): Owner of the masked parameter.
        reads (bool): Whether it is its input, and not its output.
        dim (int): Dimension of the channels, 1 or -1.
        channels (Tensor): Global channel of every index, -1 for none,
            ``[size]``.
    """

    module: nn.Module
    reads: bool
    dim: int
    channels: Tensor


def map_of(module: nn.Module, mask: Any) -> MaskedMap | None:
    """Returns the map on which a mask does what it does to a parameter.

    Args:
        module (nn.Module): Owner of the parameter.
        mask (ParameterMask): The mask.

    Returns:
        MaskedMap or None: None if there may be no such map.
    """
    # Other masks multiply in other ways.
    if type(mask) is not ParameterMask or isinstance(module, _ConvTransposeNd):
        return None
    if isinstance(module, _BatchNorm):
        return MaskedMap(module, False, 1, mask.channels)
    linear = isinstance(module, nn.Linear)
    if not linear and not isinstance(module, CONVOLUTIONS):
        return None
    # weight: [out, in, ...]
    reads = mask.dim == 1
    if reads and getattr(module, 'groups', 1) > 1:
        return None
    return MaskedMap(module, reads, -1 if linear else 1, mask.channels)


class Lanes:
    """Runs a network without several channels at once.

    The batch is repeated, once for each of them, and what emits a channel
    puts out zero in the lane that is to lack it, as does what reads it where
    it is not zero. In evaluation mode images know nothing of each other.

    Args:
        model (nn.Module): The network, with masks; what the batches run.
        count (int): Number of its channels.

    Attributes:
        possible (Tensor): Channels all of whose masks have such maps, bool
            ``[channels]``.
        compared (bool): Whether lanes were compared with single forwards.
    """

    def __init__(self, model: nn.Module, count: int) -> None:
        self.model = model
        self.maps: list[MaskedMap] = []
        self.possible = torch.ones(count, dtype=torch.bool)
        self.compared = False
        for module in model.modules():
            self._find(module)

    def _find(self, module: nn.Module) -> None:
        for masks in module.__dict__.get('_masks', {}).values():
            for mask in masks:
                found = map_of(module, mask)
                if found is None:
                    self._refuse(mask.channels)
                else:
                    self.maps.append(found)
        if isinstance(module, RunsOnLiving):
            # It computes over the channels that are left.
            living = module.__dict__['_living']
            self._refuse(living.channels)
            self._refuse(living.outputs)
        if isinstance(module, ReducesLiving):
            for axis in module.__dict__['_reduced'].values():
                self._refuse(axis.channels)

    def _refuse(self, channels: Tensor) -> None:
        self.possible[channels[channels >= 0].cpu()] = False

    @contextmanager
    def without(self, channels: Tensor, images: int) -> Iterator[None]:
        """For a while every forward runs all lanes.

        What it puts out has the images of the first lane first.

        Args:
            channels (Tensor): One for each lane, ``[lanes]``.
            images (int): Size of the batch.
        """
        lanes = len(channels)
        with ExitStack() as stack:

            def put(handle: Any) -> None:
                stack.callback(handle.remove)

            def widen(module: Any, args: Any, kwargs: Any) -> Any:
                return repeated((args, kwargs), images, lanes)

            put(self.model.register_forward_pre_hook(widen, with_kwargs=True))
            for each in self.maps:
                # [lanes, size]
                hit = each.channels.to(channels) == channels[:, None]
                if hit.any():
                    register = (
                        each.module.register_forward_pre_hook
                        if each.reads
                        else each.module.register_forward_hook
                    )
                    put(register(_zeroing(hit, each.dim)))
            yield


def _zeroing(hit: Tensor, dim: int) -> Callable[..., Any]:
    """A hook, for an input or an output, that removes what is hit."""

    def hook(module: nn.Module, args: Any, output: Any = None) -> Any:
        if output is not None:
            return zeroed(output, hit, dim)
        return zeroed(args[0], hit, dim), *args[1:]

    return hook


def zeroed(value: Tensor, hit: Tensor, dim: int) -> Tensor:
    """Returns a map whose lanes lack channels of their own.

    Args:
        value (Tensor): Lanes first, ``[lanes x N, ...]``.
        hit (Tensor): Which index of which lane is zero, bool
            ``[lanes, size]``.
        dim (int): Dimension of the channels, 1 or -1.
    """
    value = value.clone()
    # [lanes N, C, ...] -> [lanes, N, C, ...] -> [lanes, C, N, ...]
    apart = value.unflatten(0, (len(hit), -1))
    apart.movedim(dim + 1 if dim > 0 else dim, 1)[hit] = 0
    return value


def repeated(value: Any, images: int, lanes: int) -> Any:
    """Repeats whatever has one entry per image.

    Args:
        value (Any): Arguments of a forward.
        images (int): Size of the batch.
        lanes (int): How often.
    """
    if isinstance(value, Tensor):
        if value.dim() == 0 or len(value) != images:
            return value
        return value.repeat(lanes, *[1] * (value.dim() - 1))
    if isinstance(value, dict):
        return {k: repeated(v, images, lanes) for k, v in value.items()}
    if isinstance(value, list) and len(value) == images:
        return value * lanes
    if isinstance(value, (list, tuple)):
        kind: Any = type(value)
        return kind(repeated(each, images, lanes) for each in value)
    return value
