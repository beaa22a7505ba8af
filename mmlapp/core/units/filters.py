# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Filters: a layer loses some, a branch fills what they computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import PruningError
from ..gathering import OUT_OF_SCOPE
from ..groups import ChannelGroup, Groups, Member
from ..heirs import Heirs
from ..mask.gate import GateSource
from ..mask.masked import AppliedMask
from ..mask.masking import mask_parameters, sites_of_groups
from ..patterns import matches
from ..plan.kept import Kept
from ..plan.layout import Layout
from ..trace import LayerCall, Site
from ..trace.own_calls import MEASURED
from ..trace.record import no_nodes
from .base import Found, Request, Unit, Verify, register_unit, unit_name
from .branches import plan_branches

if TYPE_CHECKING:
    from ..analysis.result import Analysis


@register_unit('filters')
class Filters(Unit):
    """Filters of single convolutions, :math:`y = m W(x) + B(x)`.

    All channels live on, for the branch B keeps its full width: no layer
    has to agree with another, and one may lose all its filters.
    """

    floor = 0
    keeps_streams = True

    def find(self, request: Request, verify: Verify) -> Found:
        """One group per convolution with a branch.

        Widths stay, so that nothing is to be narrowed on trial.

        Raises:
            PruningError: If no bypass was asked for.
        """
        if request.bypass is None:
            raise PruningError(
                "unit='filters' needs a bypass, which fills the removed "
                "channels: add bypass='depthwise' or another one"
            )
        # Those of channels tell whether every pattern matches something.
        request.gathering.groups()
        wanted = {
            site.module
            for site in request.record.producers
            if matches(site.module, request.scope)
            and not matches(site.module, request.ignore)
        }
        measured = request.record.measured
        branches, without = plan_branches(
            request,
            wanted,
            lambda name, layer: MEASURED if name in measured else None,
        )
        if any(branch.merge for branch in branches.values()):
            raise PruningError(
                f'bypass={request.bypass!r}: a branch that is merged cannot '
                "fill removed filters, as unit='filters' asks of it. Take "
                "unit='channels', or merge=False"
            )
        reasons = {**dict.fromkeys(branches), **without}
        return Found(_groups(request, reasons), branches, without)

    def sole_paths(self, analysis: Analysis) -> set[str]:
        """None: the branch beside every layer goes around it."""
        return set()

    def calls(self, analysis: Analysis) -> list[LayerCall]:
        """A layer computes fewer filters; what reads them reads them all."""
        return [
            replace(
                call,
                # By its outputs alone, as the branch fills what is missing.
                dims={
                    name: nodes
                    for name, nodes in call.dims.items()
                    if name == 'out' and call.name in analysis.branches
                },
            )
            for call in analysis.trace.calls
        ]

    def branch_ends(self, analysis: Analysis, name: str) -> None:
        """A branch keeps its full width."""

    def add_masks(
        self, model: nn.Module, source: GateSource, analysis: Analysis
    ) -> list[AppliedMask]:
        """Masks filters and biases; what follows sees full channels."""
        record = analysis.trace

        def emits(site: Site) -> bool:
            return (
                site in record.masked
                or site in record.producers
                or site.name.endswith('.bias')
            )

        return mask_parameters(
            model, source, record, analysis.groups, emits, no_nodes()
        )

    def layout(self, model: nn.Module, analysis: Analysis) -> Layout:
        """Slices filters and biases; notes which outputs they belong to."""
        groups = analysis.groups
        blank: dict[str, tuple[Tensor, Tensor]] = {}
        details = {}
        for name in analysis.branches:
            layer: Any = model.get_submodule(name)
            # -1 everywhere: a branch loses nothing at either end.
            whole = torch.full((layer.in_channels,), -1)
            blank[name] = whole, torch.full((layer.out_channels,), -1)
            size = layer.out_channels
            weight = _filters_of(layer)
            nodes = analysis.trace.nodes_of(f'{name}.weight', weight, size)
            details[name] = {'outputs': groups.channels_at(nodes)}
        sites = sites_of_groups(model, analysis.trace, groups)
        return Layout(
            unit_name(self),
            # Attributes count channels, of which none goes.
            [entry for entry in sites if not entry[0].attribute],
            blank,
            analysis.bypass,
            details,
        )

    def check_layer(
        self,
        layer: nn.Module,
        details: Mapping[str, Kept],
        slices: Mapping[str, Mapping[int, Kept]],
    ) -> None:
        """The outputs must be those of the layer."""
        width = getattr(layer, 'out_channels', None)
        if set(details) != {'outputs'} or details['outputs'].size != width:
            raise PruningError(
                f'it has {width} outputs, the plan keeps filters of '
                f'{ {key: kept.size for key, kept in details.items()} }'
            )

    def numbers(self, details: Mapping[str, Kept]) -> dict[str, int]:
        """It emits all channels, however few filters it has left."""
        return {'out_channels': details['outputs'].size}

    def narrow_layer(
        self, layer: nn.Module, details: Mapping[str, Kept]
    ) -> Heirs:
        """Notes at which outputs the filters that are left add."""
        kept = details['outputs']
        if kept.whole:
            return {}
        weight = layer._parameters['weight']
        assert weight is not None
        layer.kept = torch.tensor(
            kept.index, dtype=torch.int64, device=weight.device
        )
        return {}


def _filters_of(layer: Any) -> int:
    """Dimension of a weight that counts the filters."""
    # [out, in / groups, ...], transposed [in, out / groups, ...].
    return int(layer.transposed)


def _groups(request: Request, reasons: Mapping[str, str | None]) -> Groups:
    """One group per layer; ``reasons`` has why it is frozen, or None."""
    record = request.record
    channel = torch.full((record.graph.size,), -1)
    owner = channel.clone()
    items: list[ChannelGroup] = []
    total = number = 0
    for site in record.sites:
        name = site.module
        if site not in record.producers:
            continue
        frozen = reasons.get(name, OUT_OF_SCOPE)
        sites = [site, *(s for s in record.sites if s.name == f'{name}.bias')]
        size = site.size
        layer: Any = request.model.get_submodule(name)
        if frozen is None and not layer.transposed:
            # Groups of a convolution stay equally large: filter j of every
            # group is channel j, [groups * size] -> [size].
            size //= int(layer.groups)
        members = tuple(Member(s, torch.arange(s.size) % size) for s in sites)
        items.append(ChannelGroup(name, size, members, frozen))
        if frozen is not None:
            continue
        for m in members:
            span = slice(m.site.start, m.site.start + m.site.size)
            # Numbers in the group -> numbers over all groups: plus its start.
            channel[span] = m.channels + total
            owner[span] = number
        total, number = total + size, number + 1
    return Groups(tuple(items), channel, owner)
