# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where every channel of a network lives, and the plan that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..bypass.branches import Bypass
from ..mask.gate import at_channels
from ..trace import Site
from .plan import BypassPlan, ChannelPlan, Kept


@dataclass
class Layout:
    """Where every channel lives, by global channel number, -1 for none.

    Args:
        sites (list[tuple[Site, Tensor]]): Dimensions and the channel at each
            of their indices.
        bypasses (dict[str, tuple[Tensor, Tensor]]): Input and output
            channels of every convolution with a bypass.
        bypass (Bypass): Type and placement.
    """

    sites: list[tuple[Site, Tensor]]
    bypasses: dict[str, tuple[Tensor, Tensor]]
    bypass: Bypass

    def plan(
        self,
        mask: Tensor,
        groups: Mapping[str, Tensor],
        flops: Mapping[str, float],
    ) -> ChannelPlan:
        """Resolves masks to kept indices of every dimension.

        Args:
            mask (Tensor): Bool mask in global order, ``[channels]``.
            groups (Mapping[str, Tensor]): The mask of each group by name.
            flops (Mapping[str, float]): Multiply-adds to note down.

        Returns:
            ChannelPlan: Dimensions that lose nothing are left out.
        """

        def kept(channels: Tensor) -> Kept:
            return Kept.from_mask(at_channels(mask, channels))

        slices: dict[str, dict[int, Kept]] = {}
        attributes: dict[str, Kept] = {}
        for site, channels in self.sites:
            entry = kept(channels)
            if len(entry.index) == entry.size:
                continue
            if site.attribute:
                attributes[site.name] = entry
            else:
                slices.setdefault(site.name, {})[site.dim] = entry
        kind = self.bypass
        return ChannelPlan(
            groups={n: Kept.from_mask(m) for n, m in groups.items()},
            slices=slices,
            attributes=attributes,
            bypasses={
                name: BypassPlan(
                    kind.type, kind.placement, kept(inputs), kept(outputs)
                )
                for name, (inputs, outputs) in self.bypasses.items()
            },
            flops=flops,
        )
