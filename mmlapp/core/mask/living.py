# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Modules that run on the living channels alone while others are masked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..mixins import mix_in, take_off
from ..trace.blocks.registry import adjust_attributes
from ..trace.modules import in_order
from .gate import GateSource, at_channels
from .masked import Masked


class Living:
    """What of one module belongs to living channels.

    Args:
        source (GateSource): Holds the gate of all channels.
        channels (Tensor): Global channel of every index of the input along
            ``dim``, -1 where none applies; ``[size]``.
        outputs (Tensor): The same for the output.
        dim (int): Dimension of the channels.
        tensors (Sequence[tuple[str, int, Tensor]]): Name, dimension and
            global channels of its parameters and buffers.
        attributes (Sequence[tuple[str, Tensor]]): Name and global channels
            of its integer attributes.
    """

    def __init__(
        self,
        source: GateSource,
        channels: Tensor,
        outputs: Tensor,
        dim: int,
        tensors: Sequence[tuple[str, int, Tensor]],
        attributes: Sequence[tuple[str, Tensor]],
    ) -> None:
        self.source, self.dim = source, dim
        self.channels, self.outputs = channels, outputs
        self.tensors, self.attributes = tensors, attributes

    def index(self, channels: Tensor) -> Tensor:
        """Returns the indices along a dimension that live."""
        return self.alive(channels).nonzero()[:, 0]

    def alive(self, channels: Tensor) -> Tensor:
        """Returns which indices along a dimension live, bool ``[size]``."""
        return at_channels(self.source.factor.detach(), channels) > 0

    def all(self) -> bool:
        """Whether nothing is masked."""
        if not self.source.active:
            return True
        ends = torch.cat([self.channels, self.outputs])
        return bool(self.alive(ends).all())

    def narrowed(self, module: nn.Module) -> nn.Module:
        """Returns a twin of a module as it will be when narrowed."""
        # Shallow: stores are copied next, so that the module keeps its own.
        twin = copy.copy(module)
        twin.__class__ = _own_class(module)
        twin._parameters = dict(module._parameters)
        twin._buffers = dict(module._buffers)
        # A weight may lose indices along two dimensions, one after the other.
        values: dict[str, Tensor] = {}
        for name, dim, channels in self.tensors:
            # A parameter may be masked, through which the gate learns.
            value = values.get(name, getattr(module, name))
            values[name] = value.index_select(dim, self.index(channels))
        for name, value in values.items():
            store: Any = twin._parameters
            (store if name in store else twin._buffers)[name] = value
        for name, channels in self.attributes:
            setattr(twin, name, int(self.alive(channels).sum()))
        adjust_attributes(twin)
        return twin


def _own_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module below masks and this mixin."""
    mixins = (RunsOnLiving, Masked)
    cls: Any = type(module)
    while issubclass(cls, mixins):
        cls = next(c for c in cls.__bases__ if c not in mixins)
    found: type[nn.Module] = cls
    return found


class RunsOnLiving:
    """Mixin of a module that must see no removed channel."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Gathers the living channels and puts the results in their places."""
        living: Living = self.__dict__['_living']
        if living.all():
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        assert isinstance(self, nn.Module)
        twin, dim = living.narrowed(self), living.dim
        # The input is the first of its own forward, which the twin has.
        (x, *others), named = in_order(twin, args, kwargs)
        # [.., size, ..] -> [.., living, ..], through the narrow module, and
        # back to full width with zeros where a channel is removed.
        alive = x.index_select(dim, living.index(living.channels))
        y: Tensor = twin.forward(alive, *others, **named)
        shape = list(y.shape)
        shape[dim] = len(living.outputs)
        index = living.index(living.outputs)
        return y.new_zeros(shape).index_copy(dim, index, y)


def run_on_living(module: nn.Module, living: Living) -> None:
    """Makes a module run on living channels alone, in place.

    Args:
        module (nn.Module): The module; its class becomes a subclass.
        living (Living): Which channels those are.
    """
    mix_in(module, RunsOnLiving)
    module.__dict__['_living'] = living


def release(module: nn.Module) -> None:
    """Gives a module back its own class.

    Args:
        module (nn.Module): A module, on living channels or not.
    """
    take_off(module, RunsOnLiving, '_living')
