# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where every part of a network lives, and the plan that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..mask.gate import at_channels
from ..trace import Site
from .entries import BranchPlan
from .kept import Kept
from .plan import ChannelPlan


@dataclass
class Layout:
    """Where every part lives, by global channel number, -1 for none.

    Args:
        unit (str): Name of what is removed.
        sites (list[tuple[Site, Tensor]]): Dimensions and the channel at each
            of their indices.
        branches (dict[str, tuple[Tensor, Tensor]]): Input and output
            channels of every layer with a branch.
        bypass (Mapping, optional): What the branches are built from.
        details (dict[str, dict[str, Tensor]]): What the unit wants to know
            of a layer beside slices, each as channels.
        shapes (Mapping[str, tuple[int, ...]]): Of the dense network, see
            :func:`tensor_shapes`. A plan without them fits no network.
        heads (Mapping[str, int]): See :class:`ChannelPlan`.
        kinds (Mapping[str, str]): Likewise.
    """

    unit: str
    sites: list[tuple[Site, Tensor]]
    branches: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    bypass: Mapping[str, Any] | None = None
    details: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    heads: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)

    def plan(
        self,
        mask: Tensor,
        groups: Mapping[str, Tensor],
        costs: Mapping[str, Mapping[str, float]],
    ) -> ChannelPlan:
        """Resolves masks to kept indices of every dimension.

        Args:
            mask (Tensor): Bool mask in global order, ``[channels]``.
            groups (Mapping[str, Tensor]): The mask of each group by name.
            costs (Mapping): Costs to note down, see :class:`ChannelPlan`.

        Returns:
            ChannelPlan: Dimensions that lose nothing are left out.
        """
        # All dimensions of a group share one object.
        known: dict[bytes, Kept] = {}

        def kept(parts: Sequence[Tensor]) -> list[Kept]:
            return _kept(mask, parts, known)

        slices: dict[str, dict[int, Kept]] = {}
        attributes: dict[str, Kept] = {}
        entries = kept([channels for _, channels in self.sites])
        for (site, _), entry in zip(self.sites, entries, strict=True):
            if entry.whole:
                continue
            if site.attribute:
                attributes[site.name] = entry
            else:
                # A weight has two entries, 0 for outputs and 1 for inputs.
                slices.setdefault(site.name, {})[site.dim] = entry
        return ChannelPlan(
            groups={n: Kept.from_mask(m) for n, m in groups.items()},
            slices=slices,
            attributes=attributes,
            branches={
                name: BranchPlan(self.bypass or {}, *kept(ends))
                for name, ends in self.branches.items()
            },
            costs=costs,
            unit=self.unit,
            details={
                name: dict(zip(parts, kept(list(parts.values())), strict=True))
                for name, parts in self.details.items()
            },
            shapes=self.shapes,
            heads={n: w for n, w in self.heads.items() if n in groups},
            kinds=self.kinds,
        )


def _kept(
    mask: Tensor, parts: Sequence[Tensor], known: dict[bytes, Kept]
) -> list[Kept]:
    """Indices that stay of several dimensions, looked up at once.

    Args:
        mask (Tensor): Bool mask in global order, ``[channels]``.
        parts (Sequence[Tensor]): Channel at every index of each dimension.
        known (dict[bytes, Kept]): What was found so far, by what lives.
    """
    if not parts:
        return []
    # Channel at every index of all -> whether it lives -> indices that stay.
    # An index without a channel, -1, reads True: it stays.
    living = at_channels(mask, torch.cat(list(parts)))
    alive, found, start = bytes(living.tolist()), [], 0
    for part in parts:
        # Parts lie one after the other: [0:8], [8:24] ... of `living`.
        span = slice(start, start := start + len(part))
        key = alive[span]
        if key not in known:
            known[key] = Kept.from_mask(living[span])
        found.append(known[key])
    return found


def tensor_shapes(
    model: nn.Module, without: Sequence[str] = ()
) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor that a state dict has.

    Masks do not change it: what is stored counts, not what they show.

    Args:
        model (nn.Module): The network.
        without (Sequence[str]): Beginnings of names to leave out, such as
            ``pruner.``. Defaults to none.
    """
    shapes = {}
    for owner, module in model.named_modules(remove_duplicate=False):
        start = f'{owner}.' if owner else ''
        if start.startswith(tuple(without)):
            continue
        for store in (module._parameters, module._buffers):
            for leaf, value in store.items():
                # Other buffers may be made by a forward, at any size.
                saved = leaf not in module._non_persistent_buffers_set
                if value is not None and saved:
                    shapes[f'{start}{leaf}'] = tuple(value.shape)
    return shapes
