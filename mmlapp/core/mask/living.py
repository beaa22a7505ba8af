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


class Alive:
    """Which channels live at one moment, looked up once for each tensor.

    Args:
        source (GateSource): Holds the gate of all channels.
    """

    def __init__(self, source: GateSource) -> None:
        # [channels], or None where nothing is masked.
        self._gate = source.factor.detach() if source.active else None
        self._found: dict[int, Tensor] = {}

    def index(self, channels: Tensor) -> Tensor:
        """Returns the indices along a dimension that live, ``[living]``.

        Args:
            channels (Tensor): Global channel of every index, -1 where none
                applies; ``[size]``.
        """
        found = self._found.get(id(channels))
        if found is None:
            assert self._gate is not None
            found = (at_channels(self._gate, channels) > 0).nonzero()[:, 0]
            self._found[id(channels)] = found
        return found

    def all(self, channels: Tensor) -> bool:
        """Whether no index is masked.

        Args:
            channels (Tensor): As for :meth:`index`.
        """
        return self._gate is None or len(self.index(channels)) == len(channels)


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
        # What an input, an output and a scale have is mostly the same: one
        # object then, which is looked up once.
        self._known: list[Tensor] = []
        self.channels, self.outputs = self._once(channels), self._once(outputs)
        self.tensors = [(n, d, self._once(found)) for n, d, found in tensors]
        self.attributes = [(n, self._once(found)) for n, found in attributes]

    def _once(self, channels: Tensor) -> Tensor:
        """Returns the tensor that was known to be equal to another one."""
        for known in self._known:
            if torch.equal(known, channels):
                return known
        self._known.append(channels)
        return channels

    def now(self) -> Alive:
        """Returns which channels live at the moment."""
        return Alive(self.source)

    def narrowed(self, module: nn.Module, alive: Alive) -> nn.Module:
        """Returns a twin of a module as it will be when narrowed.

        Args:
            module (nn.Module): The module, not changed.
            alive (Alive): Which channels live.
        """
        twin = _shallow(module)
        # A weight may lose indices along two dimensions, one after the other.
        values: dict[str, Tensor] = {}
        for name, dim, channels in self.tensors:
            # A parameter may be masked, through which the gate learns.
            value = values.get(name)
            if value is None:
                value = getattr(*_at(module, name))
            values[name] = value.index_select(dim, alive.index(channels))
        for name, value in values.items():
            owner, leaf = _at(twin, name)
            store: Any = owner._parameters
            (store if leaf in store else owner._buffers)[leaf] = value
        for name, channels in self.attributes:
            recount(*_at(twin, name), len(alive.index(channels)))
        # Parents are listed before their children; reversed, after them.
        for part in reversed(list(twin.modules())):
            adjust_attributes(part)
        return twin

    def keep_buffers(
        self, module: nn.Module, twin: nn.Module, alive: Alive
    ) -> None:
        """Keeps what the forward of a twin has made of sliced buffers.

        Args:
            module (nn.Module): What the twin was made from.
            twin (nn.Module): It has run.
            alive (Alive): Which channels lived.
        """
        slices: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
        for name, dim, channels in self.tensors:
            slices[name].append((dim, alive.index(channels)))
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
        alive = living.now()
        if alive.all(living.channels) and alive.all(living.outputs):
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        assert isinstance(self, nn.Module)
        twin, dim = living.narrowed(self, alive), living.dim
        # The input is the first of its own forward, which the twin has.
        (x, *others), named = in_order(twin, args, kwargs)
        # [.., size, ..] -> [.., living, ..], through the narrow module, and
        # back to full width with zeros where a channel is removed.
        narrow = x.index_select(dim, alive.index(living.channels))
        y: Tensor = twin.forward(narrow, *others, **named)
        if self.training:
            with torch.no_grad():
                living.keep_buffers(self, twin, alive)
        index = alive.index(living.outputs)
        return among_zeros(y, dim, index, len(living.outputs))


def among_zeros(part: Tensor, dim: int, index: Tensor, size: int) -> Tensor:
    """Puts what some channels give into their places, zeros into others.

    Args:
        part (Tensor): What they give, ``[.., kept, ..]``.
        dim (int): Dimension of the channels.
        index (Tensor): Their places, ``[kept]``.
        size (int): How many there are of all.

    Examples:
        >>> among_zeros(torch.tensor([3.0, 5.0]), 0, torch.tensor([0, 2]), 4)
        tensor([3., 0., 5., 0.])
    """
    shape = list(part.shape)
    shape[dim] = size
    # Of the part's kind: perhaps one of vmap, or of autocast.
    return part.new_zeros(shape).index_copy(dim, index, part)


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
