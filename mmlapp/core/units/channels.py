# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Channels: they vanish from every layer that emits or reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from ..attention.fitted import fit_heads
from ..bypass.branch import Ends
from ..errors import PruningError
from ..groups import Groups
from ..heirs import Heirs
from ..mask.gate import GateSource
from ..mask.masked import AppliedMask
from ..mask.masking import (
    layer_ends,
    mask_branch,
    mask_parameters,
    sites_of_groups,
    skip_removed,
)
from ..plan.kept import Kept
from ..plan.layout import Layout
from ..trace import Trace
from .base import Found, Request, Unit, Verify, register_unit, unit_name
from .branches import plan_branches

if TYPE_CHECKING:
    from ..analysis.result import Analysis

# Before the name of an attribute in what a plan notes of a layer.
DIVISOR = '/'


@register_unit('channels')
class Channels(Unit):
    """Whole channels, tied over all layers that share them.

    A branch beside a layer loses the same channels as the layer.
    """

    floor = 1

    def groups(self, request: Request) -> Groups:
        """Returns the channel groups of the trace as it is now.

        Args:
            request (Request): The network and what may be pruned.
        """
        return request.gathering.groups()

    def find(self, request: Request, verify: Verify) -> Found:
        """Groups of the trace, without what does not run when narrowed."""
        record = request.record
        groups = verify(lambda: self.groups(request))
        wanted = {
            member.site.module
            for group in groups.prunable
            for member in group.producers(record.producers)
        }
        # A grouped branch has no dimension that could be masked at its input.
        open_ended = {site.module for site in record.readers}

        def refuse(name: str, layer: nn.Module) -> str | None:
            if getattr(layer, 'groups', 1) > 1:
                return 'it is a grouped convolution'
            if not isinstance(layer, nn.Conv2d):
                kind = type(layer).__name__
                return f'{kind} takes none that is narrowed with it'
            if name in open_ended:
                return 'it reads channels that are not zero where removed'
            return None

        return Found(groups, *plan_branches(request, wanted, refuse))

    def branch_ends(self, analysis: Analysis, name: str) -> Ends:
        """Returns the nodes of the layer's own ends."""
        return layer_ends(analysis.trace, name)

    def add_masks(
        self, model: nn.Module, source: GateSource, analysis: Analysis
    ) -> list[AppliedMask]:
        """Masks what emits a channel, and readers of what is not zero."""
        record, groups = analysis.trace, analysis.groups
        masks = mask_parameters(
            model,
            source,
            record,
            groups,
            lambda site: site in record.masked,
            record.compared,
        )
        for name in analysis.branches:
            layer = model.get_submodule(name)
            masks += mask_branch(layer, name, source, record, groups)
        skip_removed(model, source, record, groups)
        return masks

    def layout(self, model: nn.Module, analysis: Analysis) -> Layout:
        """Slices every dimension, and branches at both ends."""
        groups = analysis.groups
        branches = {}
        for name in analysis.branches:
            # Nodes -> global channels; [in] and [out].
            inputs, outputs = self.branch_ends(analysis, name)
            branches[name] = (
                groups.channels_at(inputs),
                groups.channels_at(outputs),
            )
        # Nodes -> global channels; [heads], and [heads * width].
        details = {
            name: {
                'heads': groups.channels_at(nodes[:, 0]),
                'inner': groups.channels_at(nodes.flatten()),
                **{
                    f'{DIVISOR}{attribute}': groups.channels_at(nodes[:, 0])
                    for attribute in divisors_of(analysis.trace, name)
                },
            }
            for name, nodes in analysis.trace.fitted.items()
        }
        return Layout(
            unit_name(self),
            sites_of_groups(model, analysis.trace, groups),
            branches,
            analysis.bypass,
            details,
        )

    def check_layer(
        self,
        layer: nn.Module,
        details: Mapping[str, Kept],
        slices: Mapping[str, Mapping[int, Kept]],
    ) -> None:
        """Heads are as wide as ever, and one of them stays."""
        divisors = {key for key in details if key.startswith(DIVISOR)}
        if set(details) - divisors != {'heads', 'inner'} or not all(
            hasattr(layer, key.removeprefix(DIVISOR)) for key in divisors
        ):
            super().check_layer(layer, details, slices)
        heads, inner = details['heads'], details['inner']
        # inner / heads, the width of a head, is what it was before.
        if not heads.count or (
            inner.count * heads.size != inner.size * heads.count
        ):
            raise PruningError(
                f'the plan keeps {heads.count} of {heads.size} heads, and '
                f'{inner.count} of {inner.size} channels in them'
            )

    def narrow_layer(
        self, layer: nn.Module, details: Mapping[str, Kept]
    ) -> Heirs:
        """Lets code that takes the width of heads from its input run."""
        heads, inner = details['heads'], details['inner']
        divisors = [
            key.removeprefix(DIVISOR)
            for key in details
            if key.startswith(DIVISOR)
        ]
        fit_heads(layer, heads.count, inner.size // heads.size, divisors)
        return {}


def divisors_of(record: Trace, module: str) -> list[str]:
    """Attributes of a module by which a width is divided, to compute with it.

    Args:
        record (Trace): Of the network.
        module (str): Name of the module.
    """
    found = (name.rpartition('.') for name in sorted(record.divisors))
    # One of several numbers in a list is left alone.
    return [n for owner, _, n in found if owner == module and n[-1] != ']']
