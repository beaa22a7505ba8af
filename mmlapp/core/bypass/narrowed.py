# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A grouped bypass whose inputs and outputs were narrowed independently."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..narrowing.optimizer_state import Heir


@dataclass(frozen=True)
class Part:
    """Groups of a narrowed bypass that kept equally many channels.

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
    inputs, outputs = kept_in.view(groups, -1), kept_out.view(groups, -1)
    counts = torch.stack([inputs.sum(1), outputs.sum(1)], dim=1)
    for n_in, n_out in counts.unique(dim=0).tolist():
        if n_in == 0 or n_out == 0:
            continue
        index = (counts == torch.tensor([n_in, n_out])).all(1).nonzero()[:, 0]
        columns = inputs[index].nonzero()[:, 1].view(-1, n_in)
        rows = outputs[index].nonzero()[:, 1].view(-1, n_out)
        yield Part(
            (rows + index[:, None] * outputs.shape[1]).reshape(-1),
            columns.repeat_interleave(n_out, dim=0),
            (columns + index[:, None] * inputs.shape[1]).reshape(-1),
            len(index),
        )


class PartialBypass(nn.Module):
    """A grouped bypass narrowed at both ends.

    Args:
        dense (nn.Conv2d): The bypass before.
        kept_in (Tensor): Input channels that live, bool ``[in]``.
        kept_out (Tensor): Output channels that live, bool ``[out]``.
    """

    def __init__(
        self, dense: nn.Conv2d, kept_in: Tensor, kept_out: Tensor
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.width = int(kept_out.sum())
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

    def forward(self, x: Tensor) -> Tensor:
        """Runs every part and puts its channels in their places."""
        y: Tensor | None = None
        for i, conv in enumerate(self.convs):
            part = conv(x.index_select(1, getattr(self, f'inputs{i}')))
            if y is None:
                n, _, h, w = part.shape
                y = part.new_zeros(n, self.width, h, w)
            y = y.index_add(1, getattr(self, f'outputs{i}'), part)
        assert y is not None
        return y


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


def pair_channels(
    groups: int, inputs: Tensor, outputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Lists the channel pairs that a grouped convolution joins.

    Args:
        groups (int): Number of groups.
        inputs (Tensor): Global channel of every input, ``[in]``.
        outputs (Tensor): Global channel of every output, ``[out]``.

    Returns:
        tuple[Tensor, Tensor]: Both ends of each pair.
    """
    a = inputs.view(groups, 1, -1)
    b = outputs.view(groups, -1, 1)
    a, b = torch.broadcast_tensors(a, b)
    return a.reshape(-1), b.reshape(-1)


def narrow_bypass(
    conv: nn.Module, kept_in: Tensor, kept_out: Tensor
) -> dict[nn.Parameter, list[Heir]]:
    """Narrows the bypass of a convolution with the channels around it.

    Args:
        conv (nn.Module): A convolution with a bypass.
        kept_in (Tensor): Input channels that live, bool ``[in]``.
        kept_out (Tensor): Output channels that live, bool ``[out]``.

    Returns:
        dict[nn.Parameter, list[Heir]]: What took the place of its weight.
    """
    dense = conv.bypass
    assert isinstance(dense, nn.Conv2d)
    if kept_in.all() and kept_out.all():
        return {}
    partial = PartialBypass(dense, kept_in, kept_out)
    bypass: nn.Module | None = partial
    if not len(partial.convs):
        bypass = None
    elif len(partial.convs) == 1 and _is_plain(partial, int(kept_in.sum())):
        bypass = partial.convs[0]
    conv.bypass = bypass  # type: ignore[assignment]
    if bypass is not None:
        bypass.train(dense.training)
    takes = [p.take for p in parts(dense.groups, kept_in, kept_out)]
    heirs = [
        Heir(part.get_parameter('weight'), take)
        for part, take in zip(partial.convs, takes, strict=True)
    ]
    return {dense.get_parameter('weight'): heirs}


def _is_plain(partial: PartialBypass, width_in: int) -> bool:
    """Whether one part reads all inputs and writes all outputs in order."""
    inputs = partial.get_buffer('inputs0').cpu()
    outputs = partial.get_buffer('outputs0').cpu()
    return torch.equal(inputs, torch.arange(width_in)) and torch.equal(
        outputs, torch.arange(partial.width)
    )
