# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Masks: from channel groups to the parameters of a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..attention.unfused import unfuse
from ..bypass.beside import Bypassed
from ..bypass.branch import Ends
from ..groups import Groups
from ..trace import TABLES, Site, Trace
from .attributes import widths_of_groups
from .gate import GateSource, ParameterMask
from .living import Living, RunsOnLiving, run_on_living
from .masked import AppliedMask, add_mask
from .reducing import LivingAxis, reduce_living


def layer_ends(record: Trace, name: str) -> Ends:
    """Returns the nodes at the input and output of a convolution.

    Args:
        record (Trace): The trace.
        name (str): A convolution without groups, ``[out, in, ...]``.
    """
    sizes = {
        site.dim: site.size
        for site in record.sites
        if site.name == f'{name}.weight'
    }
    return (
        record.nodes_of(f'{name}.weight', 1, sizes.get(1, 1)),
        record.nodes_of(f'{name}.weight', 0, sizes.get(0, 1)),
    )


def sites_of_groups(
    model: nn.Module, record: Trace, groups: Groups
) -> list[tuple[Site, Tensor]]:
    """Returns the dimensions that shrink, and the channel at every index.

    Args:
        model (nn.Module): The network.
        record (Trace): Its trace.
        groups (Groups): Its groups.
    """
    # How many nodes with a channel lie before each, [nodes + 1]: 0 0 1 2 2
    # where the second and the third have one.
    before = functional.pad((groups.node_channel >= 0).cumsum(0), (1, 0))
    # The nodes of a site follow each other, one per index.
    spans = [(site.start, site.start + site.size) for site in record.sites]
    first, last = torch.tensor(spans).view(-1, 2).T
    shrinks = (before[last] > before[first]).tolist()
    found = [
        (site, groups.node_channel[slice(*span)])
        for site, span, some in zip(record.sites, spans, shrinks, strict=True)
        if some and _is_stored(model, site)
    ]
    return found + widths_of_groups(record, groups)


def _is_stored(model: nn.Module, site: Site) -> bool:
    """False for the groups of a convolution that is no module."""
    if not site.attribute:
        return True
    module, _, name = site.name.rpartition('.')
    # Of a list of numbers each has an index behind its name.
    return hasattr(model.get_submodule(module), name.partition('[')[0])


def sharing_modules(
    modules: Iterable[nn.Module],
) -> dict[int, list[tuple[nn.Module, str]]]:
    """Which modules have a parameter, by its id, and its name there."""
    found: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in modules:
        for key, value in module._parameters.items():
            if value is not None:
                found[id(value)].append((module, key))
    return found


def mask_parameters(
    model: nn.Module,
    source: GateSource,
    record: Trace,
    groups: Groups,
    emits: Callable[[Site], bool],
    spared: Tensor,
) -> list[AppliedMask]:
    """Masks what emits a channel, and readers of what is not zero.

    Args:
        model (nn.Module): The network, changed in place.
        source (GateSource): Holds the gate of all channels.
        record (Trace): Its trace.
        groups (Groups): Its channel groups.
        emits (Callable): Whether a dimension emits channels. The gate gets
            a gradient there and not at readers, or it would get it twice.
        spared (Tensor): Nodes that emit and need no mask.

    Returns:
        list[AppliedMask]: Where the masks are.
    """
    layers = dict(model.named_modules(remove_duplicate=False))
    names: dict[nn.Module, str] = {}
    for name, module in layers.items():
        names.setdefault(module, name)
    sharing = sharing_modules(names)
    masks: list[AppliedMask] = []
    for site in record.sites:
        learns = emits(site)
        if site.attribute or not (learns or site in record.readers):
            continue
        # Global channel at every index of the dimension, -1 for none: [size].
        mine = groups.node_channel[site.start : site.start + site.size]
        if learns and len(spared):
            mine = _without(mine, spared - site.start)
        if (mine < 0).all():
            continue
        layer = layers[site.module]
        parameter = layer._parameters.get(site.name.rpartition('.')[2])
        # A shared parameter is read through every module that has it.
        owners = sharing[id(parameter)]
        # What else has a table, [rows, C], as the head of a model of language
        # does, reads the channels that are emitted there.
        tables = [m for m, _ in owners if isinstance(m, TABLES)]
        for module, name in owners:
            reads = site.dim == 1 and tables and module not in tables
            own = learns and not reads
            mask = ParameterMask(source, mine, site.dim, own)
            add_mask(module, name, mask)
            masks.append(AppliedMask(names[module], name, mask))
    return masks


def _without(channels: Tensor, places: Tensor) -> Tensor:
    """Channels at the indices of a dimension, none at some places."""
    places = places[(places >= 0) & (places < len(channels))]
    return channels.index_fill(0, places, -1) if len(places) else channels


def mask_branch(
    layer: nn.Module,
    name: str,
    source: GateSource,
    record: Trace,
    groups: Groups,
) -> list[AppliedMask]:
    """Masks the outputs of a branch where those of its layer are masked.

    Where a norm behind both carries the mask, nothing is to be done.

    Args:
        layer (nn.Module): A layer with a branch, changed in place.
        name (str): Its qualified name.
        source (GateSource): Holds the gate of all channels.
        record (Trace): The trace.
        groups (Groups): The channel groups.
    """
    assert isinstance(layer, Bypassed)
    weight = f'{name}.weight'
    site = next(s for s in record.sites if (s.name, s.dim) == (weight, 0))
    mine = groups.node_channel[site.start : site.start + site.size]
    if site not in record.masked or (mine < 0).all():
        return []
    assert layer.bypass is not None
    masks = []
    for path, parameter in layer.bypass.gated():
        # The first dimension of a gated parameter counts the outputs.
        mask = ParameterMask(source, mine, 0)
        add_mask(layer.bypass.get_submodule(path), parameter, mask)
        whole = '.'.join(filter(None, [name, 'bypass', path]))
        masks.append(AppliedMask(whole, parameter, mask))
    return masks


def living_parts(
    source: GateSource, record: Trace, groups: Groups
) -> Iterator[tuple[str, Living]]:
    """Yields modules that compute over prunable channels, by name.

    Args:
        source (GateSource): Holds the gate of all channels.
        record (Trace): The trace of a network.
        groups (Groups): Its channel groups.
    """
    mine = groups.channels_at
    sites: dict[str, list[Site]] = defaultdict(list)
    for site in record.sites:
        # A weight may be computed from parameters further below.
        parts = site.module.split('.')
        for number in range(1, len(parts) + 1):
            name = '.'.join(parts[:number])
            if name in record.living_modules:
                sites[name].append(site)
    for entry in record.living_modules.values():
        # Nodes of its input and output channels, [in + out].
        ends = torch.cat([entry.ids, entry.out])
        if (mine(ends) < 0).all():
            continue
        own = sites[entry.name]
        ids = [torch.arange(s.start, s.start + s.size) for s in own]
        # (site, name below the module, channel at each index)
        named = [
            (s, s.name.removeprefix(f'{entry.name}.'), mine(i))
            for s, i in zip(own, ids, strict=True)
        ]
        yield (
            entry.name,
            Living(
                source,
                mine(entry.ids),
                mine(entry.out),
                entry.dim,
                [(name, s.dim, i) for s, name, i in named if not s.attribute],
                [(name, i) for s, name, i in named if s.attribute],
            ),
        )


def skip_removed(
    model: nn.Module, source: GateSource, record: Trace, groups: Groups
) -> None:
    """Lets modules that compute over channels see the living ones alone.

    Args:
        model (nn.Module): The network, changed in place.
        source (GateSource): Holds the gate of all channels.
        record (Trace): Its trace.
        groups (Groups): Its channel groups.
    """
    for name, living in living_parts(source, record, groups):
        run_on_living(model.get_submodule(name), living)
    _skip_in_reductions(model, source, record, groups)
    unfuse(model, RunsOnLiving)


def _skip_in_reductions(
    model: nn.Module, source: GateSource, record: Trace, groups: Groups
) -> None:
    """Lets functions that reduce over channels see the living ones alone."""
    axes: dict[str, dict[str, LivingAxis]] = defaultdict(dict)
    for (name, place), entry in record.reductions.items():
        channels = groups.channels_at(entry.ids)
        if (channels >= 0).any():
            axes[name][place] = LivingAxis(source, channels, entry.dim)
    for name, found in axes.items():
        reduce_living(model.get_submodule(name), found)
