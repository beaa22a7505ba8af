# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A network that may be changed for a while, or compute in float64."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from .derived import (
    contents_of,
    forget_derived,
    lay_out,
    put_contents_back,
)
from .held import STORES, Place, holders_in, place_of, replace_held

# Where a module keeps hooks that run before it, and which take keywords, by
# numbers that PyTorch counts from zero.
HOOK_STORES = '_forward_pre_hooks', '_forward_pre_hooks_with_kwargs'
HOOK = -1
NOTHING: Mapping[str, Any] = MappingProxyType({})
# What takes the place of a tensor, by its identity.
Twins = dict[int, Tensor]
# Gives a network that computes copies in another precision.
Recast = Callable[[torch.dtype], None]


class Before:
    """A network as it is: classes, tensors and attributes.

    No parameter or buffer is copied, so whatever happens must replace these
    and not change them.

    Args:
        model (nn.Module): The network.

    Examples:
        >>> model = nn.Linear(2, 1)
        >>> before = Before(model)
        >>> model.seen = 3
        >>> before.put_back()
        >>> hasattr(model, 'seen')
        False
    """

    def __init__(self, model: nn.Module) -> None:
        self._known = [
            (module, type(module), dict(vars(module)), _stores_of(module))
            for module in model.modules()
        ]
        self.modules = [module for module, *_ in self._known]
        self._contents = contents_of(self.modules)
        self._gradients = [(p, p.requires_grad) for p in model.parameters()]
        self._values = _held_values(self.modules)

    def put_back(self) -> None:
        """Puts the network back, as often as it is asked to."""
        put_contents_back(self._contents)
        for parameter, wanted in self._gradients:
            if parameter.requires_grad is not wanted:
                parameter.requires_grad_(wanted)
        for tensor, version, value in self._values:
            if tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(value)
        for module, cls, attributes, stores in self._known:
            if type(module) is not cls:
                module.__class__ = cls
            module.__dict__.clear()
            module.__dict__.update(attributes)
            # The very dictionaries of before; they get their old entries too.
            for name, store in zip(STORES, stores, strict=True):
                module.__dict__[name].clear()
                module.__dict__[name].update(store)


@contextmanager
def restored(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Puts a network back as it was; yields its modules.

    Args:
        model (nn.Module): The network, see :class:`Before`.
    """
    before = Before(model)
    try:
        yield before.modules
    finally:
        before.put_back()


def _held_values(
    modules: Sequence[nn.Module],
) -> list[tuple[Tensor, int, Tensor]]:
    """Tensors that are no parameter or buffer, how often they were written.

    A forward may add to a running mean that it keeps as an attribute.
    """
    stores = (s for m in modules for s in (m._parameters, m._buffers))
    own = {place_of(t) for s in stores for t in s.values() if t is not None}
    held = {
        id(tensor): tensor
        for _, _, value in holders_in(modules)
        for tensor in tree_leaves(value)
        if isinstance(tensor, Tensor)
        and not tensor.is_inference()
        and place_of(tensor) not in own
    }
    return [(t, t._version, t.detach().clone()) for t in held.values()]


def _stores_of(module: nn.Module) -> list[Mapping[str, Any]]:
    """Copies of its stores; none of empty ones, of which there are many."""
    stores = [vars(module)[name] for name in STORES]
    return [dict(store) if store else NOTHING for store in stores]


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Runs a network in evaluation mode, and puts it back as it was.

    Args:
        model (nn.Module): The network, see :func:`restored`.
    """
    with restored(model) as modules, torch.no_grad():
        for module in modules:
            module.training = False
        lay_out(modules)
        yield


@contextmanager
def exact(model: nn.Module) -> Iterator[None]:
    """Lets a network compute in float64 for a while.

    Where neighbours are ranked or the like, float32 rounding of one network
    may choose others than that of its equal.

    Args:
        model (nn.Module): The network.
    """
    before = Before(model)
    values = values_of(before.modules, torch.float64)
    with computing(before, values, torch.float64):
        yield


def values_of(
    modules: Iterable[nn.Module],
    dtype: torch.dtype | None,
    known: Mapping[int, Tensor] = MappingProxyType({}),
) -> Twins:
    """Copies all parameters and buffers; shared ones stay shared.

    Args:
        modules (Iterable[nn.Module]): All modules of a network.
        dtype (torch.dtype, optional): Of the copies of floating tensors;
            None keeps that of each.
        known (Mapping): What needs no copy. Defaults to nothing.
    """
    twins = dict(known)
    for module in modules:
        for value in (*module._parameters.values(), *module._buffers.values()):
            # By identity: what several modules share gets one twin.
            if value is not None and id(value) not in twins:
                twins[id(value)] = twin_of(value, _copy(value, dtype))
    return twins


def twin_of(value: Tensor, twin: Tensor) -> Tensor:
    """Returns a tensor as a parameter where another one is a parameter."""
    if isinstance(value, nn.Parameter):
        return nn.Parameter(twin, value.requires_grad)
    return twin


@contextmanager
def computing(
    before: Before, twins: Twins, dtype: torch.dtype | None
) -> Iterator[Recast]:
    """Lets a network compute with other values for a while.

    Yields a function that gives it copies of what it computes with by then,
    in another precision.

    Args:
        before (Before): The network as it is, to which it is put back.
        twins (Twins): What takes the place of each tensor.
        dtype (torch.dtype, optional): What floating arguments of modules are
            cast to, and what new tensors get. Defaults to None: as they are.
    """
    cast = _Cast(dtype)

    def recast(dtype: torch.dtype) -> None:
        # It may have other modules by then.
        modules = list(before.modules[0].modules())
        _replace(modules, values_of(modules, dtype))
        forget_derived(modules)
        cast.dtype = dtype
        torch.set_default_dtype(dtype)

    modules = before.modules
    with ExitStack() as stack:
        stack.callback(before.put_back)
        _replace(modules, twins)
        forget_derived(modules)
        # What a forward makes by itself, such as torch.zeros(...), has the
        # default precision.
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        if dtype is not None:
            torch.set_default_dtype(dtype)
            for module in modules:
                _add_hook(module, cast)
        yield recast


def _replace(modules: Sequence[nn.Module], twins: Twins) -> None:
    """Puts twins everywhere that modules hold their tensors."""
    holders = holders_in(modules)
    held: dict[Place, Tensor] = {}
    for module in modules:
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is not None:
                    twin = twins[id(value)]
                    if holders:
                        held[place_of(value)] = twin
                    store[name] = twin  # type: ignore[assignment]
    replace_held(holders, held)


def _add_hook(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Registers a hook with keywords, until the module is put back.

    Its dictionaries are new ones: the handles of many hooks keep Python's
    collector busy.
    """
    for store, value in zip(HOOK_STORES, (hook, True), strict=True):
        known = OrderedDict(vars(module)[store])
        known[HOOK] = value
        vars(module)[store] = known


@dataclass
class _Cast:
    """Hook of every module: some are called one by one, or make tensors.

    Args:
        dtype (torch.dtype, optional): What floating arguments are cast to.
    """

    dtype: torch.dtype | None

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Returns the arguments in the precision."""
        dtype = self.dtype
        if not kwargs and all(
            isinstance(a, Tensor) and a.dtype is dtype for a in args
        ):
            return None  # as nearly always: there is no need to look deeper
        return tree_map_only(
            Tensor,
            lambda t: t.to(dtype) if t.is_floating_point() else t,
            (args, kwargs),
        )


def _copy(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    if value.is_floating_point():
        return value.detach().to(dtype or value.dtype, copy=True)
    return value.detach().clone()
