# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Modules that run on the living channels alone while others are masked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..mixins import mix_in, take_off
from ..trace.attributes import recount
from ..trace.blocks.registry import adjust_attributes
from ..trace.modules import in_order
from .gate import GateSource, at_channels
from .masked import Masked
from .reducing import ReducesLiving


class Living:
    """What of one module belongs to living channels.

    Args:
        source (GateSource): Holds the gate of all channels.
        channels (Tensor): Global channel of every index of the input along
            ``dim``, -1 where none applies; ``[size]``.
        outputs (Tensor): The same for the output.
        dim (int): Dimension of the channels.
        tensors (Sequence[tuple[str, int, Tensor]]): Name, dimension and
            global channels of parameters and buffers of it and below it.
        attributes (Sequence[tuple[str, Tensor]]): Name and global channels
            of integer attributes there.
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
        twin = _shallow(module)
        # A weight may lose indices along two dimensions, one after the other.
        values: dict[str, Tensor] = {}
        for name, dim, channels in self.tensors:
            # A parameter may be masked, through which the gate learns.
            value = values.get(name)
            if value is None:
                value = getattr(*_at(module, name))
            values[name] = value.index_select(dim, self.index(channels))
        for name, value in values.items():
            owner, leaf = _at(twin, name)
            store: Any = owner._parameters
            (store if leaf in store else owner._buffers)[leaf] = value
        for name, channels in self.attributes:
            recount(*_at(twin, name), int(self.alive(channels).sum()))
        # Parents are listed before their children; reversed, after them.
        for part in reversed(list(twin.modules())):
            adjust_attributes(part)
        return twin

    def keep_buffers(self, module: nn.Module, twin: nn.Module) -> None:
        """Keeps what the forward of a twin has made of sliced buffers.

        Args:
            module (nn.Module): What the twin was made from.
            twin (nn.Module): It has run.
        """
        slices: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
        for name, dim, channels in self.tensors:
            slices[name].append((dim, self.index(channels)))
        for name, parts in slices.items():
            owner, leaf = _at(module, name)
            if owner._buffers.get(leaf) is not None:
                value: Tensor = getattr(*_at(twin, name))
                _write(getattr(owner, leaf), value.detach(), parts)


def _at(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Where something below a module is, and its name there."""
    owner, _, leaf = name.rpartition('.')
    return module.get_submodule(owner), leaf


def _shallow(module: nn.Module) -> nn.Module:
    """A module with the same tensors, whose stores are its own."""
    cls = _own_class(module)
    # Parametrised modules refuse to be copied.
    twin = cls.__new__(cls)
    twin.__dict__.update(module.__dict__)
    twin.__dict__['_parameters'] = dict(module._parameters)
    twin.__dict__['_buffers'] = dict(module._buffers)
    twin.__dict__['_modules'] = {
        name: part if part is None else _shallow(part)
        for name, part in module._modules.items()
    }
    return twin


def _write(
    whole: Tensor, value: Tensor, places: Sequence[tuple[int, Tensor]]
) -> None:
    """Writes a slice along one dimension or several into its places."""
    (dim, index), *others = places
    if others:
        # [kept, whole] first, of which [kept, kept] is written.
        part = whole.index_select(dim, index)
        _write(part, value, others)
        value = part
    whole.index_copy_(dim, index, value)


def _own_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module below masks and what sees living channels."""
    mixins = (ReducesLiving, RunsOnLiving, Masked)
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
        if self.training:
            with torch.no_grad():
                living.keep_buffers(self, twin)
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
    take_off(module, ReducesLiving, '_reduced')
    take_off(module, RunsOnLiving, '_living')
