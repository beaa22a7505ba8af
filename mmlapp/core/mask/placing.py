# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Masks and plans: from channel groups to the tensors of a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..bypass.branches import Bypass, Bypassed
from ..groups import Groups
from ..plan.layout import Layout
from ..trace import Site, Trace
from .gate import GateSource, MaskPlace, ParameterMask, add_mask
from .living import Living, compact


def lookup(channel: Tensor, nodes: Tensor) -> Tensor:
    """Global channel of every node; -1 where there is none."""
    return torch.where(nodes >= 0, channel[nodes.clamp_min(0)], -1)


def nodes_of(record: Trace, name: str, dim: int, size: int) -> Tensor:
    """Nodes of one dimension of one tensor; -1 where it has none."""
    for site in record.sites:
        if site.name == name and site.dim == dim:
            return torch.arange(site.start, site.start + site.size)
    return torch.full((size,), -1)


def layout_of(
    model: nn.Module,
    record: Trace,
    groups: Groups,
    bypass: Bypass,
    names: Iterable[str] = (),
) -> Layout:
    """Global channels of every site; kept ones where no group owns.

    Args:
        model (nn.Module): The network.
        record (Trace): Its trace.
        groups (Groups): Its channel groups.
        bypass (Bypass): Type and placement.
        names (Iterable[str]): Convolutions with a bypass. Defaults to none.
    """
    channel = groups.node_channel
    sites = []
    for site in record.sites:
        mine = channel[site.start : site.start + site.size]
        if (mine >= 0).any() and _is_stored(model, site):
            sites.append((site, mine))
    ends = {}
    for name in names:
        layer: Any = model.get_submodule(name)
        shape = layer._parameters['weight'].shape
        out = int(layer.transposed)
        nodes = nodes_of(record, f'{name}.weight', out, shape[out])
        inputs = torch.full((layer.in_channels,), -1)
        if bypass.placement == 'narrow':
            inputs = nodes_of(record, f'{name}.weight', 1, shape[1])
        ends[name] = lookup(channel, inputs), lookup(channel, nodes)
    return Layout(sites, ends, bypass)


def _is_stored(model: nn.Module, site: Site) -> bool:
    """False for the groups of a convolution that is no module."""
    if not site.attribute:
        return True
    module, _, name = site.name.rpartition('.')
    return hasattr(model.get_submodule(module), name)


def owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """All modules that have a parameter, by its id, and its name there."""
    found: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for key, value in module._parameters.items():
            if value is not None:
                found[id(value)].append((module, key))
    return found


def place_masks(
    model: nn.Module,
    source: GateSource,
    record: Trace,
    groups: Groups,
    filled: Collection[str] | None = None,
) -> list[MaskPlace]:
    """Masks what emits a channel, and readers of what is not zero.

    Args:
        model (nn.Module): The network, changed in place.
        source (GateSource): Holds the gate of all channels.
        record (Trace): Its trace.
        groups (Groups): Its channel groups.
        filled (Collection[str], optional): Convolutions whose removed
            filters a bypass fills. Defaults to None: channels vanish.

    Returns:
        list[MaskPlace]: Where the masks are.
    """
    names = {module: name for name, module in model.named_modules()}
    sharers = owners(model)
    places: list[MaskPlace] = []

    def add(module: nn.Module, name: str, mask: ParameterMask) -> None:
        add_mask(module, name, mask)
        places.append(MaskPlace(names[module], name, mask))

    for site in record.sites:
        emits = site in record.masked or (
            filled is not None
            and (site in record.producers or site.name.endswith('.bias'))
        )
        if site.attribute or not (emits or site in record.readers):
            continue
        mine = groups.node_channel[site.start : site.start + site.size]
        if (mine < 0).all():
            continue
        layer = model.get_submodule(site.module)
        parameter = layer._parameters.get(site.name.rpartition('.')[2])
        for module, name in sharers[id(parameter)]:
            add(module, name, ParameterMask(source, mine, site.dim, emits))
        if (
            filled is None
            and isinstance(layer, Bypassed)
            and isinstance(layer.bypass, nn.Module)
            and site.dim == 0
            and site.name.endswith('.weight')
        ):
            mask = ParameterMask(source, mine, 0)
            add(layer.bypass, 'weight', mask)
    if filled is None:
        _place_compact(model, source, record, groups)
    return places


def _place_compact(
    model: nn.Module, source: GateSource, record: Trace, groups: Groups
) -> None:
    """Lets modules that compute over channels see the living ones alone."""
    channel = groups.node_channel

    def mine(ids: Tensor) -> Tensor:
        return lookup(channel, ids)

    for entry in record.compact.values():
        ends = torch.cat([entry.ids, entry.out])
        if (lookup(channel, ends) < 0).all():
            continue
        own = [s for s in record.sites if s.module == entry.name]
        ids = [torch.arange(s.start, s.start + s.size) for s in own]
        named = [
            (s, s.name.rpartition('.')[2], mine(i))
            for s, i in zip(own, ids, strict=True)
        ]
        living = Living(
            source,
            mine(entry.ids),
            mine(entry.out),
            entry.dim,
            [(name, s.dim, i) for s, name, i in named if not s.attribute],
            [(name, i) for s, name, i in named if s.attribute],
        )
        compact(model.get_submodule(entry.name), living)
