# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""From the rows of all layers to the channels of all groups, at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from ..segments import segments
from .group_scores import GroupInfo


class Rows:
    """Where the rows of all layers belong, one layer after the other.

    A layer has a slot for every channel of its group. It may have several
    rows for one, such as the filters of a grouped convolution, or none.

    Args:
        groups (Sequence[GroupInfo]): All groups, in order.
        device (torch.device): Of the rows.

    Attributes:
        sizes (list[int]): Rows of every layer.
        layers (Segments): Slots of every layer.
        groups (Segments): Channels of every group.
    """

    def __init__(
        self, groups: Sequence[GroupInfo], device: torch.device
    ) -> None:
        layers = [layer for group in groups for layer in group.layers]
        slots = [group.size for group in groups for _ in group.layers]
        self.sizes = [len(layer.channels) for layer in layers]
        self.layers = segments(slots, device)
        self.groups = segments([group.size for group in groups], device)
        owner = torch.tensor(self.sizes)
        rows = torch.cat([layer.channels.cpu() for layer in layers])
        # Channel of its group at every row -> slot: plus the first one of the
        # layer. Sorted by slot; what belongs to none is left out.
        slot = rows + _starts(slots).repeat_interleave(owner)
        order = slot.argsort(stable=True)
        order = order[rows[order] >= 0]
        count = slot[order].bincount(minlength=sum(slots))
        self._order = order.to(device)
        self._slots = segments(count.tolist(), device)
        # And -> channel of all groups, or the one behind them. [rows]
        start = _starts([group.size for group in groups]).repeat_interleave(
            torch.tensor([len(group.layers) for group in groups])
        )
        channel = rows + start.repeat_interleave(owner)
        total = sum(group.size for group in groups)
        self.channel = torch.where(rows < 0, total, channel).to(device)
        self._tables = [
            (slot.to(device), channel.to(device))
            for slot, channel in _by_layers(groups)
        ]

    def by_slot(self, rows: Tensor) -> Tensor:
        """Means over the rows of each channel in each layer, ``[slots]``.

        Args:
            rows (Tensor): Of all layers, ``[rows]``.
        """
        return self._slots.mean(rows[self._order])

    def by_channel(self, slots: Tensor) -> Tensor:
        """Means over the layers of each group, ``[channels]``.

        Args:
            slots (Tensor): Of all layers, ``[slots]``.
        """
        # Groups with equally many layers at once: [L, n] -> [n]. Every channel
        # is in one table, so that nothing of `found` stays empty.
        found = slots.new_empty(len(self.groups.owner))
        for slot, channel in self._tables:
            found[channel] = slots[slot].mean(0)
        return found

    def split(self, channels: Tensor) -> list[Tensor]:
        """Values of channels at the rows of every layer, each ``[N]``.

        Args:
            channels (Tensor): Shape ``[channels]``. What belongs to none
                reads zero.
        """
        # [channels + 1]: what belongs to none reads the last one.
        padded = torch.cat([channels, channels.new_zeros(1)])
        return list(padded[self.channel].split(self.sizes))


def _starts(sizes: Sequence[int]) -> Tensor:
    """Sizes 2 3 4 -> 0 2 5."""
    found = torch.tensor(sizes)
    return found.cumsum(0) - found


def _by_layers(groups: Sequence[GroupInfo]) -> list[tuple[Tensor, Tensor]]:
    """Slots and channels of the groups that have 1, 2, ... layers.

    Returns:
        list[tuple[Tensor, Tensor]]: Slots of all groups with L layers,
        ``[L, n]``, and their channels, ``[n]``, for every L that there is.
    """
    slots: dict[int, list[Tensor]] = defaultdict(list)
    channels: dict[int, list[Tensor]] = defaultdict(list)
    slot = channel = 0
    for group in groups:
        count, index = len(group.layers), torch.arange(group.size)
        # A group of 3 channels and 2 layers: 0 1 2 | 3 4 5.
        first = group.size * torch.arange(count)[:, None]
        slots[count].append(slot + first + index)
        channels[count].append(channel + index)
        slot, channel = slot + count * group.size, channel + group.size
    return [
        (torch.cat(slots[count], dim=1), torch.cat(channels[count]))
        for count in slots
    ]
