# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Stripes: filters lose positions of their kernel where widths must match."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..cost.base import StoredTensor
from ..errors import PruningError, PruningWarning
from ..groups import ChannelGroup, Groups
from ..heirs import Heirs
from ..mask.gate import GateSource, ParameterMask
from ..mask.masked import AppliedMask, add_mask
from ..patterns import matches
from ..plan.kept import Kept
from ..plan.layout import Layout
from ..score.group_scores import Layer
from ..streams import channelwise
from ..trace import LayerCall, Trace
from .base import Found, Request, Verify, register_unit
from .channels import Channels
from .striped import KINDS, keep_stripes

if TYPE_CHECKING:
    from ..analysis.result import Analysis

MATCHED = 'several layers emit them, which must stay equally wide'
REMEDY = "Take unit='channels'"


@dataclass(frozen=True)
class StripeGroup(ChannelGroup):
    """The stripes of one convolution, numbered filter by filter.

    Args:
        start (int): First of their nodes, which no tensor has.
    """

    start: int = 0

    @property
    def nodes(self) -> Tensor:
        """Node of every stripe, ``[size]``."""
        return torch.arange(self.start, self.start + self.size)


class StripeMask(ParameterMask):
    """Multiplies a weight ``[out, in, ...]`` by a gate of ``[out, ...]``."""

    def __call__(self, parameter: Tensor) -> Tensor:
        """Returns the masked weight."""
        out, _, *kernel = parameter.shape
        factor = self.factor().to(parameter.dtype)
        # [out * positions] -> [out, 1, positions ...]: a stripe is a position
        # of a filter over all its inputs.
        return parameter * factor.view(out, 1, *kernel)


@register_unit('stripes')
class Stripes(Channels):
    """Channels where the width is free, elsewhere stripes (SWP, 2009.14410).

    A width is free if one layer emits it, beside those that compute channel
    by channel. Where several do, as in a residual stream, or the outputs must
    stay for another reason, each filter of a convolution loses positions of
    its kernel, its stripes, and keeps its channel.
    """

    keeps_streams = True

    def groups(self, request: Request) -> Groups:
        """Returns the channel groups, those frozen that must match.

        Args:
            request (Request): The network and what may be pruned.
        """
        groups = super().groups(request)
        matched = list(_matched(request.record, groups))
        for nodes in matched:
            request.record.graph.freeze(nodes, MATCHED)
        return super().groups(request) if matched else groups

    def find(self, request: Request, verify: Verify) -> Found:
        """Channels as far as they are free, and stripes of other layers.

        Raises:
            PruningError: If a bypass was asked for, or no kernel has more
                than one position.
        """
        if request.bypass is not None:
            raise PruningError(
                f'bypass={dict(request.bypass)!r}: a layer that loses '
                'stripes can have no branch. Leave it out, or take '
                "unit='channels'"
            )
        found = super().find(request, verify)
        reasons = dict(_reasons(request, found.groups))
        striped = [name for name, reason in reasons.items() if reason is None]
        if not striped:
            _warn_of_none(request, reasons)
        groups = _with_stripes(request, found.groups, striped)
        return replace(found, groups=groups, reshaped=tuple(striped))

    def scored_layers(
        self, model: nn.Module, analysis: Analysis, group: ChannelGroup
    ) -> list[Layer]:
        """Scores of stripes come from their own layer alone."""
        if not isinstance(group, StripeGroup):
            return super().scored_layers(model, analysis, group)
        layer: Any = model.get_submodule(group.name)
        # [out, in, ...]: all but the inputs count the stripes.
        dims = (0, *range(2, layer.weight.dim()))
        return [Layer(group.name, layer, dims, torch.arange(group.size))]

    def calls(self, analysis: Analysis) -> list[LayerCall]:
        """A striped layer costs in proportion to stripes times inputs."""
        nodes = {group.name: group.nodes for group in _stripes(analysis)}
        return [
            # One more factor of the term beside the inputs: a stripe that is
            # left meets every input that is left.
            replace(call, dims={**call.dims, 'stripes': nodes[call.name]})
            if call.name in nodes and call.op == 'convolution'
            else call
            for call in super().calls(analysis)
        ]

    def tensors(
        self, model: nn.Module, analysis: Analysis
    ) -> list[StoredTensor]:
        """A striped weight has a row of inputs for each stripe."""
        nodes = {f'{g.name}.weight': g.nodes for g in _stripes(analysis)}
        return [
            # Dimension 0 counts stripes in the place of filters.
            replace(tensor, dims={**tensor.dims, 0: nodes[tensor.name]})
            if tensor.name in nodes
            else tensor
            for tensor in super().tensors(model, analysis)
        ]

    def add_masks(
        self, model: nn.Module, source: GateSource, analysis: Analysis
    ) -> list[AppliedMask]:
        """Masks stripes beside what emits a channel."""
        masks = super().add_masks(model, source, analysis)
        for group in _stripes(analysis):
            # Nodes -> global channels; [out * positions], filter by filter as
            # the weight lies.
            channels = analysis.groups.channels_at(group.nodes)
            mask = StripeMask(source, channels, 0)
            add_mask(model.get_submodule(group.name), 'weight', mask)
            masks.append(AppliedMask(group.name, 'weight', mask))
        return masks

    def layout(self, model: nn.Module, analysis: Analysis) -> Layout:
        """Slices channels; notes which stripes of a layer there are."""
        details = {
            group.name: {'stripes': analysis.groups.channels_at(group.nodes)}
            for group in _stripes(analysis)
        }
        layout = super().layout(model, analysis)
        return replace(layout, details={**layout.details, **details})

    def check_layer(
        self,
        layer: nn.Module,
        details: Mapping[str, Kept],
        slices: Mapping[str, Mapping[int, Kept]],
    ) -> None:
        """The stripes must be those of the layer, and its filters stay."""
        if 'heads' in details:
            super().check_layer(layer, details, slices)
            return
        kept, reason = details.get('stripes'), _unfit(layer)
        if reason is not None or set(details) != {'stripes'} or kept is None:
            raise PruningError(
                f'the plan keeps {", ".join(details)} of it, and '
                f'{reason or "a layer has stripes alone"}'
            )
        size = _count(layer)
        if kept.size != size or kept.count == 0:
            raise PruningError(
                f'it has {size} stripes, the plan keeps {kept.count} of '
                f'{kept.size}'
            )
        # Stripes are counted in all filters: of fewer the numbers are others.
        if any(0 in dims for dims in slices.values()):
            raise PruningError('the plan removes both filters and stripes')

    def narrow_layer(
        self, layer: nn.Module, details: Mapping[str, Kept]
    ) -> Heirs:
        """Makes a layer that lost stripes one that computes the others."""
        if 'heads' in details:
            return super().narrow_layer(layer, details)
        kept = details['stripes']
        return {} if kept.whole else keep_stripes(layer, kept)


def _stripes(analysis: Analysis) -> list[StripeGroup]:
    """Groups of stripes; none on trial, where only widths are tried."""
    items = analysis.groups.items
    return [group for group in items if isinstance(group, StripeGroup)]


def _count(layer: Any) -> int:
    """Filters times positions of a convolution."""
    return int(layer.out_channels * math.prod(layer.kernel_size))


def _matched(record: Trace, groups: Groups) -> Iterator[Tensor]:
    """Nodes of the channels that several layers emit."""
    follow = channelwise(record)
    for group in groups.prunable:
        emitting = [
            member
            for member in group.producers(record.producers)
            if member.site.module not in follow
        ]
        # One alone may lose filters like any other layer.
        if len(emitting) < 2:
            continue
        for member in group.members:
            nodes = torch.arange(member.site.size) + member.site.start
            # -1: an index of the site that is no channel of this group.
            yield nodes[member.channels >= 0]


def _reasons(
    request: Request, groups: Groups
) -> Iterator[tuple[str, str | None]]:
    """Layers in the scope whose width must stay, and why they stay whole."""
    record = request.record
    for site in record.sites:
        name = site.module
        wanted = (
            site in record.producers
            and matches(name, request.scope)
            and not matches(name, request.ignore)
        )
        nodes = slice(site.start, site.start + site.size)
        if not wanted or (groups.node_group[nodes] >= 0).any():
            continue
        layer = request.model.get_submodule(name)
        # One that shares its weight, or never runs, is irregular, too.
        yield name, _unfit(layer) or record.irregular.get(name)


def _unfit(layer: Any) -> str | None:
    """Why a layer has no stripes; None if it has some."""
    if not isinstance(layer, KINDS):
        return f'{type(layer).__name__} has no stripes'
    if math.prod(layer.kernel_size) == 1:
        return 'its kernel has a single position'
    return None


def _warn_of_none(request: Request, reasons: Mapping[str, str | None]) -> None:
    """Says why no layer has stripes that could go.

    Raises:
        PruningError: If none has stripes at all.
    """
    why = '; '.join(f'{name}: {reason}' for name, reason in reasons.items())
    layers = request.model.named_modules()
    if not any(
        _unfit(layer) is None
        for name, layer in layers
        if matches(name, request.scope)
    ):
        raise PruningError(
            "unit='stripes' removes positions of kernels, and no convolution "
            f'in scope={list(request.scope)} has more than one ({why}). '
            f'{REMEDY}'
        )
    warnings.warn(
        "unit='stripes' removes stripes of no layer, for the widths of those "
        f'that have some are free, or they are left alone ({why}): channels '
        'alone are removed',
        PruningWarning,
        stacklevel=5,
    )


def _with_stripes(
    request: Request, groups: Groups, names: list[str]
) -> Groups:
    """Adds a group for the stripes of each layer."""
    channel, owner = [groups.node_channel], [groups.node_group]
    items = list(groups.items)
    total = sum(group.size for group in groups.prunable)
    number = len(groups.prunable)
    for name in names:
        size = _count(request.model.get_submodule(name))
        # The last ones of the graph so far, of which groups know all.
        start = int(request.record.graph.new(size)[0])
        items.append(StripeGroup(name, size, (), start=start))
        # Numbered on behind the channels, [channels, stripes of the first
        # layer, of the second ...].
        channel.append(torch.arange(size) + total)
        owner.append(torch.full((size,), number))
        total, number = total + size, number + 1
    return Groups(tuple(items), torch.cat(channel), torch.cat(owner))
