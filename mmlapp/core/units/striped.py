# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A convolution of which single positions of the kernel are left."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..heirs import Heir, Heirs
from ..mixins import mix_in
from ..plan.kept import Kept

Sizes = tuple[int, ...]
KINDS = nn.Conv1d, nn.Conv2d, nn.Conv3d


@dataclass(frozen=True)
class Place:
    """The stripes at one position of the kernel.

    Args:
        number (int): Of the position among those that are left.
        shift (tuple[int, ...]): Outputs are products this far behind them,
            in every dimension.
    """

    number: int
    shift: Sizes


@dataclass(frozen=True)
class Polyphase:
    """Places that read the same pixels.

    Args:
        first (tuple[int, ...]): First index of the subsampled input, in
            every dimension.
        before (tuple[int, ...]): Zeros that are read before its products;
            below zero, products that nobody reads.
        last (tuple[int, ...]): Products are read as far as this behind the
            size of the output.
        places (Sequence[Place]): What reads them.
    """

    first: Sizes
    before: Sizes
    last: Sizes
    places: Sequence[Place]


@dataclass(frozen=True)
class Geometry:
    """How the products of stripes are added up.

    Args:
        outputs (int): Channels of the output.
        stride (tuple[int, ...]): Of the convolution.
        missing (tuple[int, ...]): What an output lacks to its input, with
            stride one, in every dimension: output o of an input of n is one
            of ``(n - missing - 1) // stride + 1``.
        counts (Sequence[int]): Stripes at every position that is left.
        phases (Sequence[Polyphase]): All places.
    """

    outputs: int
    stride: Sizes
    missing: Sizes
    counts: Sequence[int]
    phases: Sequence[Polyphase]


class Striped:
    r"""Mixin of a convolution that keeps some positions of its filters.

    The weight is that of one convolution with kernels of one element, a row
    for each stripe, by position and then by filter. With stride s, dilation d
    and padding p, output o of position i reads input :math:`s o + i d - p =
    s (o + q) + a`, with :math:`0 \le a < s`: the input is subsampled from
    its index a on, convolved, shifted by q and added to the outputs of the
    filters. Nothing is computed that a stride would drop.
    """

    geometry: Geometry
    filters: Tensor
    weight: Tensor
    bias: Tensor | None
    kernel_size: Sizes
    groups: int
    padding_mode: str
    _reversed_padding_repeated_twice: list[int]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Returns what the masked convolution would.

        Args:
            input (Tensor): Shape ``[batch, in, ...]`` or ``[in, ...]``.
        """
        x = input
        if self.padding_mode != 'zeros':
            pads = self._reversed_padding_repeated_twice
            x = functional.pad(x, pads, mode=self.padding_mode)
        own, rank = self.geometry, len(self.geometry.stride)
        sizes = [
            (n - less - 1) // step + 1
            for n, less, step in zip(
                x.shape[-rank:], own.missing, own.stride, strict=True
            )
        ]
        products = list(self._products(x))
        # In the type of the products, which autocast may choose.
        shape = *x.shape[: -rank - 1], own.outputs, *sizes
        y = products[0][1].new_zeros(shape)
        for phase, product in products:
            self._add(y, phase, _padded(phase, product, sizes))
        if self.bias is not None:
            y = y + self.bias.to(y.dtype).view(-1, *[1] * rank)
        return y

    def _add(self, y: Tensor, phase: Polyphase, product: Tensor) -> None:
        """Adds the products of every place to its filters, in place."""
        rank, counts = len(phase.first), self.geometry.counts
        # Split, not sliced: an exporter has merged three slices wrongly.
        filters = self.filters.split(counts)
        own = [counts[place.number] for place in phase.places]
        parts = product.split(own, -rank - 1)
        for place, rows in zip(phase.places, parts, strict=True):
            window = rows[_window(phase, place, y.shape[-rank:])]
            y.index_add_(-rank - 1, filters[place.number], window)

    def _products(self, x: Tensor) -> Iterator[tuple[Polyphase, Tensor]]:
        """Of the rows of every phase, ``[.., rows, ...]``."""
        rank = len(self.geometry.stride)
        for phase in self.geometry.phases:
            steps = zip(phase.first, self.geometry.stride, strict=True)
            part = x[_last(slice(a, None, step) for a, step in steps)]
            if max(self.geometry.stride) > 1:
                # As flatten would; exporters want to be told.
                part = part.clone(memory_format=torch.contiguous_format)
            product = self._product(phase, part.flatten(-rank))
            yield phase, product.unflatten(-1, part.shape[-rank:])

    def _product(self, phase: Polyphase, pixels: Tensor) -> Tensor:
        """Of all rows of a phase with ``[.., in, pixels]``."""
        # [rows, in] times [.., in, pixels]: the convolution with kernels of
        # one element, whose own operator is slow for few channels.
        rows = self._of(phase, self.weight).flatten(1)
        if self.groups == 1:
            # Expanded, or the product would lie in memory pixel by pixel.
            rows = rows.expand(*pixels.shape[:-2], *rows.shape)
            return torch.matmul(rows, pixels)
        # [.., in, pixels] as [.., g, in / g, pixels], of which every row takes
        # that of its filter's group: [.., rows, in / g, pixels].
        each = self.geometry.outputs // self.groups
        group = self._of(phase, self.filters).div(each, rounding_mode='floor')
        read = pixels.unflatten(-2, (self.groups, -1)).index_select(-3, group)
        return torch.matmul(rows[:, None], read).squeeze(-2)

    def _of(self, phase: Polyphase, values: Tensor) -> Tensor:
        """What belongs to the rows of a phase, ``[rows, ...]``."""
        if len(self.geometry.phases) == 1:
            return values
        parts = values.split(self.geometry.counts)
        return torch.cat([parts[place.number] for place in phase.places])

    def extra_repr(self) -> str:
        """Shows how many stripes are left."""
        text: str = super().extra_repr()  # type: ignore[misc]
        total = self.geometry.outputs * math.prod(self.kernel_size)
        return f'{text}, stripes={len(self.filters)} of {total}'


def _last(parts: Iterable[slice]) -> Any:
    """Index of the last dimensions."""
    return ..., *parts


def _padded(phase: Polyphase, product: Tensor, sizes: Sequence[int]) -> Tensor:
    """Products with all zeros that are read around them.

    Args:
        phase (Polyphase): Of the product.
        product (Tensor): Of all its rows, ``[.., rows, ...]``.
        sizes (Sequence[int]): Of the output, in every dimension.

    Returns:
        Tensor: ``[.., rows, before + size + last, ...]``.
    """
    pads: list[int] = []
    ends = zip(phase.before, phase.last, strict=True)
    shape = product.shape[-len(sizes) :]
    for (before, last), n, size in zip(ends, shape, sizes, strict=True):
        # The last dimension comes first.
        pads = [before, size + last - n, *pads]
    return functional.pad(product, pads)


def _window(phase: Polyphase, place: Place, sizes: Sequence[int]) -> Any:
    """Index of the products that a place adds, ``[.., rows, *sizes]``."""
    return _last(
        slice(before + q, before + q + size)
        for before, q, size in zip(
            phase.before, place.shift, sizes, strict=True
        )
    )


def keep_stripes(layer: Any, kept: Kept) -> Heirs:
    """Leaves a convolution some of its stripes, in place.

    Args:
        layer (nn.Conv1d, nn.Conv2d or nn.Conv3d): Its class becomes a
            subclass and its state-dict keys stay.
        kept (Kept): Which ones, numbered filter by filter.

    Returns:
        Heirs: What took the place of its weight.
    """
    old = layer._parameters['weight']
    count = math.prod(layer.kernel_size)
    # Filter and position of every stripe, by position and then by filter.
    stripes = sorted(
        (divmod(i, count) for i in kept.index), key=lambda pair: pair[::-1]
    )
    rows = torch.tensor([f * count + p for f, p in stripes])
    take = partial(_take, rows=rows)
    weight = nn.Parameter(take(old), old.requires_grad)
    geometry = _geometry(layer, [p for _, p in stripes])
    mix_in(layer, Striped)
    layer.geometry, layer.weight = geometry, weight
    filters = torch.tensor([f for f, _ in stripes], device=old.device)
    layer.register_buffer('filters', filters)
    return {old: [Heir(weight, take)]}


def _take(tensor: Tensor, rows: Tensor) -> Tensor:
    """[out, in, ...] -> [out * positions, in] -> [rows, in, 1, ...]."""
    flat = tensor.detach().movedim(1, -1).flatten(0, -2)
    found = flat[rows.to(flat.device)]
    return found.view(*found.shape, *[1] * (tensor.dim() - 2))


def _geometry(layer: Any, positions: Sequence[int]) -> Geometry:
    """Where the rows of a weight go.

    Args:
        layer (nn.Module): The convolution.
        positions (Sequence[int]): That of every row, ascending.
    """
    low, high = _padding(layer)
    sizes = zip(layer.dilation, layer.kernel_size, low, high, strict=True)
    missing = [d * (k - 1) - a - b for d, k, a, b in sizes]
    counts = Counter(positions)
    phases: dict[Sizes, list[Place]] = defaultdict(list)
    for number, position in enumerate(counts):
        first, shift = _read_at(layer, position, low)
        phases[first].append(Place(number, shift))
    return Geometry(
        layer.out_channels,
        tuple(layer.stride),
        tuple(missing),
        list(counts.values()),
        [_phase(first, places) for first, places in phases.items()],
    )


def _read_at(
    layer: Any, position: int, low: Sequence[int]
) -> tuple[Sizes, Sizes]:
    """First pixel and shift of a position, in every dimension.

    Args:
        layer (nn.Module): The convolution.
        position (int): Of its kernel, row by row.
        low (Sequence[int]): Zeros before the input.
    """
    first, shift = [], []
    for size, d, p, s in zip(
        layer.kernel_size[::-1],
        layer.dilation[::-1],
        low[::-1],
        layer.stride[::-1],
        strict=True,
    ):
        # Of [3, 3] position 5 is row 1, column 2: the last dimension first.
        position, i = divmod(position, size)
        # i d - p = s q + a
        q, a = divmod(i * d - p, s)
        first.append(a)
        shift.append(q)
    return tuple(first[::-1]), tuple(shift[::-1])


def _phase(first: Sizes, places: Sequence[Place]) -> Polyphase:
    """How far products of the same pixels are read."""
    shifts = list(zip(*(place.shift for place in places), strict=True))
    before = tuple(-min(shift) for shift in shifts)
    return Polyphase(first, before, tuple(map(max, shifts)), places)


def _padding(layer: Any) -> tuple[Sequence[int], Sequence[int]]:
    """Zeros before and behind, in every dimension."""
    none = [0] * len(layer.kernel_size)
    if layer.padding_mode != 'zeros' or layer.padding == 'valid':
        return none, none
    if layer.padding == 'same':
        # [before, behind] of the last dimension first.
        pads = layer._reversed_padding_repeated_twice[::-1]
        return pads[1::2], pads[::2]
    return layer.padding, layer.padding
