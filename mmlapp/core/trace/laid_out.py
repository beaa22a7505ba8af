# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Tensors that the first forward lays out and later ones read.

They are as wide as the network was then, and no plan knows them: whoever
trains, narrows and runs again would meet them too wide. Which ones are read is
seen where the network runs again with wider ones in their place. Code that
looks at their width lays them out anew, and code that just notes down what it
computed reads none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..derived import forget_derived
from ..held import Place, holders_in, place_of, replace_held
from ..snapshot import Before
from ..writes import CopyOnWrite, storage_of
from .labels import Labels
from .tracer import Tracer

REASON = 'of a tensor that the first forward lays out for all later ones'


def freeze_laid_out(
    tracer: Tracer, model: nn.Module, ways: Sequence[Callable[[], Any]]
) -> None:
    """Freezes channels of what a forward has kept and the next one reads.

    Args:
        tracer (Tracer): Has followed the network.
        model (nn.Module): The network, as the forward has left it.
        ways (Sequence[Callable]): How it ran.
    """
    if not _kept(tracer, list(model.modules())):
        return  # as nearly always
    before = Before(model)
    try:
        forget_derived(before.modules)
        kept = _kept(tracer, before.modules)
        # What is read first may end the forward: others are seen without it.
        while kept:
            read = _read_again(model, before, kept, ways)
            for place in read:
                tracer.freeze(kept.pop(place)[1], REASON)
            if not read:
                break
    finally:
        before.put_back()


# Tensors by where they lie, and what their dimensions are.
Kept = dict[Place, tuple[Tensor, Labels]]


def _kept(tracer: Tracer, modules: Sequence[nn.Module]) -> Kept:
    """What a forward has left in a network, and has channels.

    A plan narrows parameters and buffers that were there, and what replaces
    them in their shape.
    """
    named = dict(tracer.named())
    own = {place_of(tensor) for tensor in named.values()}
    left = [
        leaf
        for _, _, value in holders_in(modules)
        for leaf in tree_leaves(value)
    ]
    for module in modules:
        start = tracer.modules.get(id(module), '')
        for name, value in module._buffers.items():
            before = named.get(f'{start}.{name}'.lstrip('.'))
            if before is None or value is None or before.shape != value.shape:
                left.append(value)
    found = {}
    for tensor in left:
        labels = tracer.known(tensor) if isinstance(tensor, Tensor) else None
        if labels and labels.axes and place_of(tensor) not in own:
            found[place_of(tensor)] = tensor, labels
    return found


def _read_again(
    model: nn.Module,
    before: Before,
    kept: Kept,
    ways: Iterable[Callable[[], Any]],
) -> list[Place]:
    """Which ones a further forward reads; all if it fails for another reason.

    The network is put back.
    """
    wide = {place: _wider(*entry) for place, entry in kept.items()}
    reads = _Reads(wide.values())
    written = CopyOnWrite([*model.parameters(), *model.buffers()])
    failed = True
    try:
        _replace(before.modules, wide)
        with suppress(Exception), torch.no_grad(), written, reads:
            for run in ways:
                run()
            failed = False
    finally:
        before.put_back()
        written.restore()
    read = [p for p, t in wide.items() if storage_of(t) in reads.met]
    return read or (list(wide) if failed else [])


def _wider(tensor: Tensor, labels: Labels) -> Tensor:
    """A tensor with one more index of each dimension of channels."""
    for dim in labels.axes:
        tensor = torch.cat([tensor, tensor.narrow(dim, 0, 1)], dim)
    return tensor


def _replace(
    modules: Sequence[nn.Module], wide: Mapping[Place, Tensor]
) -> None:
    """Puts the wider ones everywhere that modules hold the others."""
    replace_held(holders_in(modules), wide)
    for module in modules:
        for leaf, value in module._buffers.items():
            if value is not None and place_of(value) in wide:
                module._buffers[leaf] = wide[place_of(value)]


class _Reads(TorchDispatchMode):
    """Notes of which tensors an operator reads the values.

    Args:
        tensors (Iterable[Tensor]): Which ones to look at.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._storages = {storage_of(tensor) for tensor in tensors}
        self.met: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # A view is no use yet: it is seen where somebody reads it.
        if not func.is_view:
            self.met |= self._storages.intersection(
                storage_of(value)
                for value in tree_leaves((args, kwargs))
                if isinstance(value, Tensor)
            )
        return func(*args, **(kwargs or {}))
