# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a network draws random numbers from beside the generators of all.

A module may own a generator, or hold an object that does: a forward that
draws from it would go on with other numbers after an analysis.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .derived import HOOKS, LOOKED_INTO
from .held import OWN, PLAIN

# What nothing is drawn from, and what holds too much that is not its own.
LEFT_ALONE = Tensor, type, ModuleType


def generators_in(modules: Iterable[nn.Module]) -> list[Any]:
    """Returns generators that modules hold, however deep in objects.

    Args:
        modules (Iterable[nn.Module]): All modules of a network.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> layer.drawn = [random.Random(1), {'a': torch.Generator()}]
        >>> len(generators_in([layer]))
        2
    """
    found: list[Any] = []
    seen: set[int] = set()
    kinds = random.Random, torch.Generator, *_numpys()
    waiting: list[Any] = list(modules)
    while waiting:
        value = waiting.pop()
        if type(value) in PLAIN or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, kinds):
            # The one of the operating system has no state.
            if not isinstance(value, random.SystemRandom):
                found.append(value)
        elif not isinstance(value, LEFT_ALONE):
            waiting.extend(_parts(value))
    return found


@contextmanager
def put_back(
    generators: Sequence[Any], seed: int | None = None
) -> Iterator[None]:
    """Gives generators the states back that they have now.

    Args:
        generators (Sequence): From :func:`generators_in`.
        seed (int, optional): What they begin anew with. Defaults to None:
            they go on.
    """
    states = [_kept(generator) for generator in generators]
    try:
        if seed is not None:
            for generator in generators:
                _begin_anew(generator, seed)
        yield
    finally:
        for restore in states:
            restore()


def _numpys() -> tuple[type, ...]:
    """The kinds of NumPy; who has not imported it holds none."""
    numpy: Any = getattr(sys.modules.get('numpy'), 'random', None)
    return (numpy.RandomState, numpy.Generator) if numpy else ()


def _parts(value: Any) -> Iterable[Any]:
    """What an object holds, of a module what is not PyTorch's."""
    if isinstance(value, nn.Module):
        held = vars(value)
        own = [
            part
            for name, part in held.items()
            if (name not in OWN or (name in HOOKS and part))
            and type(part) not in PLAIN
        ]
        return [*own, *value._modules.values()]
    if type(value) in LOOKED_INTO:
        found = value.values() if isinstance(value, dict) else value
        return () if PLAIN.issuperset(map(type, found)) else found
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    if isinstance(value, MethodType):
        return (value.__self__,)
    if type(value).__module__.partition('.')[0] == 'torch':
        return ()
    try:
        # Others may do something when they are asked.
        return (object.__getattribute__(value, '__dict__'),)
    except AttributeError:
        return ()


def _kept(generator: Any) -> Callable[[], Any]:
    """Returns what gives a generator the state back that it has."""
    if isinstance(generator, torch.Generator):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if hasattr(generator, 'bit_generator'):
        bits = generator.bit_generator
        return partial(setattr, bits, 'state', bits.state)
    return partial(generator.set_state, generator.get_state())


def _begin_anew(generator: Any, seed: int) -> None:
    """Lets a generator begin anew."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif hasattr(generator, 'bit_generator'):
        bits = generator.bit_generator
        bits.state = type(bits)(seed).state
    else:
        generator.seed(seed)
