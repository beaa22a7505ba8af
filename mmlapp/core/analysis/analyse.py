# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What can be pruned in a network, found without changing it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..bypass.branches import Bypass, build_bypass
from ..errors import PruningWarning
from ..groups import ChannelGroup, Groups, Member, find_groups, matches
from ..mask.placing import owners
from ..trace import Trace, trace
from .refusals import check_network, check_repeats, checked
from .trial import prove


@dataclass(frozen=True)
class Analysis:
    """What can be pruned in a network, and what it costs.

    Args:
        trace (Trace): Recorded forward.
        groups (Groups): Prunable and frozen channel groups.
        bypasses (dict[str, _ConvNd]): Bypass of each convolution.
        without (dict[str, str]): Convolutions without one, and why.
    """

    trace: Trace
    groups: Groups
    bypasses: dict[str, _ConvNd]
    without: dict[str, str]

    @property
    def flops(self) -> int:
        """Multiply-adds of the network as it is."""
        return sum(term.dense for term in self.trace.terms)


def analyse(
    model: nn.Module,
    forward: Callable[[], Any],
    scope: str | Sequence[str] = '*',
    ignore: str | Sequence[str] = (),
    bypass: Bypass | None = None,
) -> Analysis:
    """Finds a network's channel groups without changing it.

    Args:
        model (nn.Module): The network.
        forward (Callable): Runs it on an example.
        scope (str or Sequence[str]): Patterns of module names that may be
            pruned. Defaults to all.
        ignore (str or Sequence[str]): Patterns to leave alone. Defaults to
            none.
        bypass (Bypass, optional): The bypass to plan for. Defaults to none.

    Returns:
        Analysis: Groups, bypasses and multiply-adds.

    Raises:
        PruningError: If the model is wrapped, compiled or does not run on
            the example, if it returns no tensor or calls other modules at
            every forward, or if a pattern of ``scope`` matches nothing.
    """
    check_network(model)
    bypass = bypass or Bypass()
    scope = (scope,) if isinstance(scope, str) else tuple(scope)
    ignore = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    record = trace(model, checked(forward))
    check_repeats(model, forward, record.calls)
    groups = find_groups(record, scope, ignore)
    if bypass.placement == 'fill':
        built = _bypasses(
            model, record, bypass, _inside(record, scope, ignore)
        )
        groups = _fill_groups(model, record, groups, *built)
    else:
        groups = prove(
            model, forward, record, lambda: find_groups(record, scope, ignore)
        )
        wanted = {
            m.site.module
            for g in groups.prunable
            for m in g.producers(record.producers)
        }
        built = _bypasses(model, record, bypass, wanted)
    return Analysis(record, groups, *built)


def _inside(
    record: Trace, scope: Sequence[str], ignore: Sequence[str]
) -> set[str]:
    return {
        s.module
        for s in record.producers
        if matches(s.module, scope) and not matches(s.module, ignore)
    }


def _bypasses(
    model: nn.Module, record: Trace, bypass: Bypass, wanted: set[str]
) -> tuple[dict[str, _ConvNd], dict[str, str]]:
    """Builds the bypass of every wanted layer, in order of the forward."""
    built, without = {}, {}
    # Grouped bypasses have no dimension that could be masked at their input.
    open_ended = {
        s.module for s in record.readers if bypass.placement == 'narrow'
    }
    sharers = owners(model)
    for site in record.sites:
        name = site.module
        if site not in record.producers or name not in wanted:
            continue
        layer = model.get_submodule(name)
        branch = build_bypass(layer, bypass.type)
        weight = layer._parameters.get(site.name.rpartition('.')[2])
        shared = len(sharers[id(weight)]) > 1
        narrow = bypass.placement == 'narrow' and bypass.type != 'none'
        if narrow and getattr(layer, 'groups', 1) > 1:
            branch = 'it is a grouped convolution'
        elif narrow and not isinstance(layer, nn.Conv2d):
            branch = f'{type(layer).__name__} takes none with narrow'
        elif name in record.compact and bypass.type != 'none':
            branch = 'it computes over its channels'
        elif name in open_ended and bypass.type != 'none':
            branch = 'it reads channels that are not zero where removed'
        elif shared and bypass.type != 'none':
            branch = 'it shares its weight with another layer'
        if isinstance(branch, str):
            without[name] = branch
        else:
            built[name] = branch
    if bypass.type != 'none' and not built:
        warnings.warn(
            f'bypass={bypass.type!r} was added to no layer: '
            + '; '.join(sorted(set(without.values()))),
            PruningWarning,
            stacklevel=4,
        )
    return built, without


def _fill_groups(
    model: nn.Module,
    record: Trace,
    groups: Groups,
    bypasses: dict[str, _ConvNd],
    without: dict[str, str],
) -> Groups:
    """One group per convolution: with fill no layer agrees with another."""
    channel = torch.full_like(groups.node_channel, -1)
    owner = channel.clone()
    items: list[ChannelGroup] = []
    total = number = 0
    for site in record.sites:
        name = site.module
        if site not in record.producers:
            continue
        frozen = (
            None
            if name in bypasses
            else without.get(name, 'outside the scope')
        )
        sites = [site, *(s for s in record.sites if s.name == f'{name}.bias')]
        # Groups of a convolution must stay equally large.
        size = site.size
        if name in bypasses and not bypasses[name].transposed:
            size //= int(model.get_submodule(name).groups)  # type: ignore
        members = tuple(Member(s, torch.arange(s.size) % size) for s in sites)
        items.append(ChannelGroup(name, size, members, frozen))
        if frozen is not None:
            continue
        for m in members:
            span = slice(m.site.start, m.site.start + m.site.size)
            channel[span] = m.channels + total
            owner[span] = number
        total, number = total + size, number + 1
    return Groups(tuple(items), channel, owner)
