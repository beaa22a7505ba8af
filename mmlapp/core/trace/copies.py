# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Copies that must keep the shape of another module.

A momentum encoder, a mean teacher or a target network is updated from the
module that is trained, parameter by parameter. The two must lose the same
channels, whether or not the copy has run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .record import Site, Trace

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Copy:
    """Two modules with the same tensors, of which one follows the other.

    Args:
        name (str): The one that is not trained.
        original (str): The other one, whether it ran or not.
    """

    name: str
    original: str

    def twins(self, names: Iterable[str]) -> Iterator[str]:
        """Yields the other one of every tensor in either module.

        Args:
            names (Iterable[str]): Names of tensors anywhere.

        Examples:
            >>> list(Copy('twin', 'net').twins(['net.0.weight', 'fc.bias']))
            ['twin.0.weight']
        """
        pairs = (self.original, self.name), (self.name, self.original)
        for name in names:
            for here, there in pairs:
                if _inside(name, here):
                    yield f'{there}{name.removeprefix(here)}'


def find_copies(
    model: nn.Module, order: Sequence[str], own: Sequence[str] = ()
) -> list[Copy]:
    """Finds modules that follow others: same class, same tensors, no gradient.

    One of the two has no parameter with a gradient and one has some; not
    both ran on the example, or they would be layers of one network of which
    the first are frozen.

    Args:
        model (nn.Module): The network.
        order (Sequence[str]): Modules that ran on the example.
        own (Sequence[str]): Names of modules that follow no other one.
            Defaults to none.

    Returns:
        list[Copy]: None inside of another one.
    """
    modules = {n: m for n, m in model.named_modules() if n}
    trained = _trained(model)
    shapes = cache(lambda name: _shapes(modules[name]))
    # A container runs when something inside of it does.
    ran = {parent for name in order for parent in _parents(name)}
    found: list[Copy] = []
    for name, module in modules.items():
        inside = any(_inside(name, copy.name) for copy in found)
        if inside or name in own or name in trained or not shapes(name):
            continue
        alike = [
            other
            for other, candidate in modules.items()
            if type(candidate) is type(module)
            and other in trained
            and not (name in ran and other in ran)
            and not _inside(name, other)
            and not _inside(other, name)
            and shapes(other) == shapes(name)
        ]
        other = _only(modules, name, alike)
        if other is not None:
            found.append(Copy(name, other))
    return found


def _shapes(module: nn.Module) -> Shapes:
    """Names and shapes of all tensors below a module."""
    return tuple((n, tuple(t.shape)) for n, t in _tensors(module))


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _trained(model: nn.Module) -> set[str]:
    """Modules of which a parameter is updated by its gradient."""
    found = {
        parent
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.requires_grad
        for parent in _parents(name)
    }
    # PyTorch's averages keep parameters that could have a gradient.
    averages = [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if name and isinstance(module, AveragedModel)
    ]
    return {n for n in found if not any(_inside(n, a) for a in averages)}


def _parents(name: str) -> Iterator[str]:
    """A name and those of everything around it."""
    while name:
        yield name
        name = name.rpartition('.')[0]


def _inside(name: str, other: str) -> bool:
    return f'{name}.'.startswith(f'{other}.')


def _only(
    modules: dict[str, nn.Module], name: str, alike: Sequence[str]
) -> str | None:
    """The one that a module follows; among several that with its values."""
    if len(alike) > 1:
        values = [t for _, t in _tensors(modules[name])]
        alike = [
            other
            for other in alike
            if all(
                torch.equal(a, b)
                for a, (_, b) in zip(
                    values, _tensors(modules[other]), strict=True
                )
            )
        ]
    return alike[0] if len(alike) == 1 else None


def tie_copies(record: Trace, copies: Sequence[Copy]) -> None:
    """Lets every copy lose the channels of its original.

    Args:
        record (Trace): Of the network; it gets the sites of the copies.
        copies (Sequence[Copy]): What follows what.
    """
    for copy in copies:
        _tie(record, copy.original, copy.name)


def _tie(record: Trace, original: str, name: str) -> None:
    known = {(site.name, site.dim): site for site in record.sites}
    for site in list(record.sites):
        # Either may have run and the other not, dimension by dimension.
        for here, there in ((original, name), (name, original)):
            if not _inside(site.name, here):
                continue
            other = f'{there}{site.name.removeprefix(here)}'
            twin = known.get((other, site.dim))
            if twin is None:
                start = int(record.graph.new(site.size)[0])
                twin = replace(site, name=other, start=start)
                known[other, site.dim] = twin
                record.sites.append(twin)
            record.graph.unite(_nodes(site), _nodes(twin), 'tied')
            # Where one must be masked for its channels to be zero, so must
            # the other; these are what masks are made from.
            for roles in (record.masked, record.readers, record.trusting):
                if site in roles:
                    roles.add(twin)
    # The original is the one that is scored and named.
    mine = {site for site in record.producers if _inside(site.name, name)}
    record.producers -= mine
    if not any(_inside(site.name, original) for site in record.producers):
        _stand_in(record, original, name)
        record.producers |= {
            known[f'{original}{site.name.removeprefix(name)}', site.dim]
            for site in mine
        }
    for key, entry in list(record.living_modules.items()):
        if _inside(key, original):
            other = f'{name}{key.removeprefix(original)}'
            living = replace(entry, name=other)
            record.living_modules.setdefault(other, living)
    for (key, place), reduction in list(record.reductions.items()):
        if _inside(key, original):
            other = f'{name}{key.removeprefix(original)}'
            record.reductions.setdefault((other, place), reduction)
    for key, calls in list(record.widths.items()):
        if _inside(key, original):
            other = f'{name}{key.removeprefix(original)}'
            record.widths.setdefault(other, calls)


def _stand_in(record: Trace, original: str, name: str) -> None:
    """Calls what the copy did by the names of the original, which did not."""

    def renamed(path: str) -> str:
        if not _inside(path, name):
            return path
        return f'{original}{path.removeprefix(name)}'

    record.calls = [
        replace(call, name=renamed(call.name)) for call in record.calls
    ]
    for links in (record.norms, record.shifts):
        found = {
            renamed(layer): renamed(name) for layer, name in links.items()
        }
        links.clear()
        links.update(found)


def _nodes(site: Site) -> Tensor:
    # One node for each index, one after the other.
    return torch.arange(site.start, site.start + site.size)
