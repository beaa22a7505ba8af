# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attributes that a forward reads, as numbers that may count channels.

Where one of them is the size of a dimension of channels it follows these, see
:mod:`sizes`; the trial of the network tells whether all else agrees with it.
Of a layer it is known which dimension of its weight each of them is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ..forward_names import forward_names
from .blocks.registry import is_known
from .counted import Followed, Width, plain
from .tracer import Tracer

# Layers whose weight is a table ``[rows, C]`` that indices pick from.
TABLES = nn.Embedding, nn.EmbeddingBag


@contextmanager
def counted_attributes(tracer: Tracer, model: nn.Module) -> Iterator[None]:
    """Lets the integers of blocks know that they are attributes.

    Those that a forward reads: others follow what they count, see
    :mod:`widths`. Blocks that are registered set their attributes themselves.

    Args:
        tracer (Tracer): The running tracer.
        model (nn.Module): The network.
    """
    modules = [m for m in model.modules() if not _sets_its_own(m)]
    names = frozenset().union(*(forward_names(m) for m in modules))
    found = chain(
        (
            (module, name, _counted(tracer, module, name, value))
            for module in modules
            for name, value in module.__dict__.items()
            if name in names and counts_in(value)
        ),
        _counted_by_weights(tracer, model),
    )
    kept: list[tuple[nn.Module, str, Any, Any]] = []
    for module, name, counted in list(found):
        kept.append((module, name, module.__dict__[name], counted))
        module.__dict__[name] = counted
    try:
        yield
    finally:
        for module, name, value, counted in kept:
            # What a forward has set itself stays.
            if module.__dict__.get(name) is counted:
                module.__dict__[name] = value
        for module in model.modules():
            for name, value in list(module.__dict__.items()):
                if isinstance(value, Followed):
                    module.__dict__[name] = plain(value)


@contextmanager
def uncounted(tracer: Tracer, model: nn.Module) -> Iterator[None]:
    """Leaves all numbers as they are.

    Args:
        tracer (Tracer): The running tracer.
        model (nn.Module): The network.
    """
    tracer.sizes.counting = False
    yield


def _sets_its_own(module: nn.Module) -> bool:
    library = type(module).__module__.startswith('torch.nn.')
    return library or is_known(module)


def _counted(tracer: Tracer, module: nn.Module, name: str, value: Any) -> Any:
    """The value of an attribute, with numbers that know its name."""
    full = f'{tracer.modules[id(module)]}.{name}'.lstrip('.')
    for place, count in counts_in(value).items():
        labels = partial(_nodes, tracer, f'{full}{place}', count)
        source = replace(
            tracer.sizes.source(labels),
            attribute=f'{full}{place}',
            divisors=tracer.heads.divisors,
            ask=tracer.trace.path.ask,
        )
        value = _replaced(value, place, Width(count, source))
    return value


def _counted_by_weights(
    tracer: Tracer, model: nn.Module
) -> Iterator[tuple[nn.Module, str, Width]]:
    """Numbers of channels of layers, which any code may read."""
    for layer in model.modules():
        weight = layer._parameters.get('weight')
        if weight is None:
            continue
        for name, dim in _dimensions(layer).items():
            count = layer.__dict__.get(name)
            # Of several groups, [out, in/g, ...] does not have all inputs.
            if 1 < weight.shape[dim] == count:
                yield layer, name, _of_weight(tracer, weight, dim)


def _dimensions(layer: nn.Module) -> dict[str, int]:
    """Which dimension of its weight each number of channels of a layer is."""
    if isinstance(layer, _ConvNd):
        # [out, in/g, ...], of a transposed one [in, out/g, ...].
        turned = layer.transposed
        return {'out_channels': int(turned), 'in_channels': 1 - int(turned)}
    if isinstance(layer, nn.Linear):
        return {'out_features': 0, 'in_features': 1}
    if isinstance(layer, TABLES):
        return {'embedding_dim': 1}
    return {'num_features': 0} if isinstance(layer, _NormBase) else {}


def _of_weight(tracer: Tracer, weight: Tensor, dim: int) -> Width:
    """The size of a dimension of a weight, as its shape would say it."""

    def labels() -> Tensor:
        return tracer.labels(weight).axes[dim].ids

    source = tracer.sizes.source(labels)
    return Width(weight.shape[dim], replace(source, ask=tracer.trace.path.ask))


def _nodes(tracer: Tracer, name: str, count: int) -> Tensor:
    site = tracer.site(name, 0, count, attribute=True)
    return torch.arange(site.start, site.start + site.size)


def counts_in(value: Any) -> dict[str, int]:
    """Returns the numbers in an attribute that may count channels.

    Args:
        value (Any): Of the attribute.

    Returns:
        dict[str, int]: By their places: none of a number alone, and of a
        shape of which one dimension is longer than one; else indices.

    Examples:
        >>> counts_in(8), counts_in((8, 1, 1)), counts_in(1)
        ({'': 8}, {'': 8}, {})
        >>> counts_in([8, 1, 4])
        {'[0]': 8, '[2]': 4}
    """
    sizes = value if type(value) in (tuple, list) else [value]
    if not all(type(size) is int for size in sizes):
        return {}
    wide = {f'[{i}]': size for i, size in enumerate(sizes) if size > 1}
    return {'': next(iter(wide.values()))} if len(wide) == 1 else wide


def count_at(module: nn.Module, name: str) -> int | None:
    """Returns a number in an attribute; None if there is none.

    Args:
        module (nn.Module): The module.
        name (str): Name of the attribute, perhaps with an index.
    """
    attribute, bracket, index = name.partition('[')
    found = counts_in(getattr(module, attribute, None))
    return found.get(f'{bracket}{index}')


def recount(module: nn.Module, name: str, count: int) -> None:
    """Sets a number in an attribute, in place.

    Args:
        module (nn.Module): The module.
        name (str): As of :func:`count_at`, which finds a number there.
        count (int): What takes its place.

    Examples:
        >>> module = nn.Module()
        >>> module.shape, module.sizes = (8, 1, 1), [8, 4]
        >>> recount(module, 'shape', 5)
        >>> recount(module, 'sizes[1]', 3)
        >>> module.shape, module.sizes
        ((5, 1, 1), [8, 3])
    """
    attribute, bracket, index = name.partition('[')
    value = getattr(module, attribute)
    setattr(module, attribute, _replaced(value, f'{bracket}{index}', count))


def _replaced(value: Any, place: str, count: int) -> Any:
    """The value of an attribute with another number at a place.

    A list is a new one: others may hold it.
    """
    if not isinstance(value, (tuple, list)):
        return count
    wanted = [
        place == f'[{i}]' or (not place and size > 1)
        for i, size in enumerate(value)
    ]
    return type(value)(
        count if here else size
        for here, size in zip(wanted, value, strict=True)
    )
