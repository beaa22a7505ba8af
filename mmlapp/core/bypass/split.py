# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A grouped convolution whose inputs and outputs were narrowed freely."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Part:
    """Groups of a convolution that kept equally many channels.

    Args:
        rows (Tensor): Dense output channels, shape ``[groups * out]``.
        columns (Tensor): Positions inside the group's inputs that each row
            reads, shape ``[groups * out, in]``.
        inputs (Tensor): Dense input channels, shape ``[groups * in]``.
        groups (int): Number of groups.
    """

    rows: Tensor
    columns: Tensor
    inputs: Tensor
    groups: int

    def take(self, weight: Tensor) -> Tensor:
        """Returns the part of a tensor of the dense weight's shape."""
        # [rows, 1] with [rows, in] picks [rows, in, *kernel].
        rows = self.rows[:, None].to(weight.device)
        return weight[rows, self.columns.to(weight.device)]


def parts(groups: int, kept_in: Tensor, kept_out: Tensor) -> Iterator[Part]:
    """Splits a grouped convolution into rectangular parts.

    Args:
        groups (int): Groups of the dense bypass.
        kept_in (Tensor): Input channels that live, bool ``[in]``.
        kept_out (Tensor): Output channels that live, bool ``[out]``.

    Yields:
        Part: One for every pair of counts that occurs.
    """
    # [groups, channels of a group]
    inputs, outputs = kept_in.view(groups, -1), kept_out.view(groups, -1)
    # How many each group kept: [groups, 2]. Groups of the same pair of
    # counts form a rectangle, which one convolution computes.
    # 2 groups of 2 -> 2 with kept_in 1 1 0 1, kept_out 1 1 1 1: counts are
    # (2, 2) and (1, 2), two parts. That of group 1 has inputs 3, rows 2 3
    # and columns 1 1.
    counts = torch.stack([inputs.sum(1), outputs.sum(1)], dim=1)
    for n_in, n_out in counts.unique(dim=0).tolist():
        if n_in == 0 or n_out == 0:
            continue
        index = (counts == torch.tensor([n_in, n_out])).all(1).nonzero()[:, 0]
        # Positions inside the groups: [chosen, n_in] and [chosen, n_out].
        columns = inputs[index].nonzero()[:, 1].view(-1, n_in)
        rows = outputs[index].nonzero()[:, 1].view(-1, n_out)
        # Inside a group -> in the whole layer: plus the group's start.
        yield Part(
            (rows + index[:, None] * outputs.shape[1]).reshape(-1),
            # Every row of a group reads the same inputs.
            columns.repeat_interleave(n_out, dim=0),
            (columns + index[:, None] * inputs.shape[1]).reshape(-1),
            len(index),
        )


class SplitConv(nn.Module):
    """A grouped convolution narrowed at both ends, one part for each shape.

    Args:
        dense (nn.Conv2d): The convolution before.
        kept_in (Tensor): Input channels that live, bool ``[in]``.
        kept_out (Tensor): Output channels that live, bool ``[out]``.
    """

    def __init__(
        self, dense: nn.Conv2d, kept_in: Tensor, kept_out: Tensor
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.width = int(kept_out.sum())
        # Dense index -> index among the living ones; [in] and [out].
        # 1 0 1 1 -> 0 0 1 2; that of a removed channel is never looked up.
        position_in = kept_in.long().cumsum(0) - 1
        position_out = kept_out.long().cumsum(0) - 1
        for i, part in enumerate(parts(dense.groups, kept_in, kept_out)):
            self.convs.append(_part_conv(dense, part))
            device = dense.weight.device
            for name, position in (
                ('inputs', position_in[part.inputs]),
                ('outputs', position_out[part.rows]),
            ):
                self.register_buffer(f'{name}{i}', position.to(device))
        # (padding, reach of the kernel, stride) of every edge.
        self.geometry: list[tuple[Any, int, int]] = [
            (pad, step * (size - 1), stride)
            for pad, step, size, stride in zip(
                dense.padding,
                dense.dilation,
                dense.kernel_size,
                dense.stride,
                strict=True,
            )
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Runs every part and puts its channels in their places."""
        y: Tensor | None = None
        for i, conv in enumerate(self.convs):
            # [n, living in, ...] -> [n, inputs of the part, ...]
            part = conv(x.index_select(1, getattr(self, f'inputs{i}')))
            if y is None:
                n, _, *size = part.shape
                y = part.new_zeros(n, self.width, *size)
            y = y.index_add(1, getattr(self, f'outputs{i}'), part)
        return self._blank(x) if y is None else y

    def _blank(self, x: Tensor) -> Tensor:
        """Zeros of the right size, where no pair of channels is left."""
        # floor((edge + 2 padding - dilation (kernel - 1) - 1) / stride) + 1
        size = [
            (edge + 2 * int(pad) - reach - 1) // stride + 1
            for edge, (pad, reach, stride) in zip(
                x.shape[2:], self.geometry, strict=True
            )
        ]
        return x.new_zeros(x.shape[0], self.width, *size)

    def is_plain(self, width_in: int) -> bool:
        """Whether one part reads all inputs and writes all outputs in order.

        Args:
            width_in (int): Number of living input channels.
        """
        if len(self.convs) != 1:
            return False
        # A single part may still skip inputs, of a group without outputs.
        inputs = self.get_buffer('inputs0').cpu()
        outputs = self.get_buffer('outputs0').cpu()
        return torch.equal(inputs, torch.arange(width_in)) and torch.equal(
            outputs, torch.arange(self.width)
        )


def _part_conv(dense: nn.Conv2d, part: Part) -> nn.Conv2d:
    conv = nn.Conv2d(
        len(part.inputs),
        len(part.rows),
        dense.kernel_size,  # type: ignore[arg-type]
        stride=dense.stride,  # type: ignore[arg-type]
        padding=dense.padding,  # type: ignore[arg-type]
        dilation=dense.dilation,  # type: ignore[arg-type]
        groups=part.groups,
        bias=False,
        padding_mode=dense.padding_mode,
        device=dense.weight.device,
        dtype=dense.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(part.take(dense.weight))
    conv.weight.requires_grad_(dense.weight.requires_grad)
    return conv
