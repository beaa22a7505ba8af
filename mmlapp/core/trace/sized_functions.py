# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Functions that are given sizes, and of what each of these is the size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# A size that a function was given, the tensor that has it, and its dimension.
Sized = tuple[Any, Tensor, int]


def _reshaped(
    args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[Sized]:
    """view, reshape, expand, zeros, ...: sizes one by one or as a list."""
    sizes = args[1:] or tuple(kwargs.values())
    yield from _listed(sizes, out)


def _filled(
    args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[Sized]:
    """zeros, ones, ...: the same, with no tensor before."""
    yield from _listed(args or (kwargs.get('size', ()),), out)


def _unflattened(
    args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[Sized]:
    """unflatten: sizes that take the place of one dimension."""
    given = {**dict(zip(('x', 'dim', 'sizes'), args, strict=False)), **kwargs}
    sizes, dim = given['sizes'], given['dim']
    first = dim if dim >= 0 else out.dim() - len(sizes) + dim + 1
    for place, size in enumerate(sizes, first):
        yield size, out, place


def _listed(sizes: Sequence[Any], out: Any) -> Iterator[Sized]:
    if sizes and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    for dim, size in enumerate(sizes[: out.dim()]):
        yield size, out, dim


def _split(
    args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[Sized]:
    """split: one size of all pieces, or one for each."""
    names = 'tensor', 'split_size_or_sections', 'dim'
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    sizes = next(given[n] for n in (names[1], *SIZES_OF_SPLIT) if n in given)
    if isinstance(sizes, int):
        sizes = [sizes] * len(out)
    dim = given.get('dim', 0) % out[0].dim()
    # The last one may be shorter.
    for size, piece in zip(sizes, out, strict=False):
        if size == piece.shape[dim]:
            yield size, piece, dim


def _normalised(
    args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[Sized]:
    """layer_norm, rms_norm: sizes of the last dimensions."""
    shape = args[1] if len(args) > 1 else kwargs['normalized_shape']
    for dim, size in enumerate(shape, out.dim() - len(shape)):
        yield size, out, dim


def _grouped(
    args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[Sized]:
    """conv2d, ...: as many groups as the input has channels."""
    names = (
        'input',
        'weight',
        'bias',
        'stride',
        'padding',
        'dilation',
        'groups',
    )
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    groups, x = given.get('groups', 1), given['input']
    # [N, C, ..] or [C, ..]; without a batch there is one dimension less.
    channels = x.dim() - given['weight'].dim() + 1
    if 1 < groups == x.shape[channels]:
        yield groups, x, channels


# What C++ calls them.
SIZES_OF_SPLIT = 'split_size', 'split_sizes'
# What is empty is not read before it is filled.
ZEROS = {torch.empty, torch.zeros, Tensor.new_empty, Tensor.new_zeros}
CONSTANTS = ZEROS | {
    torch.full,
    torch.ones,
    Tensor.new_full,
    Tensor.new_ones,
}
SIZES: dict[Any, Callable[..., Iterator[Sized]]] = {
    Tensor.new_empty: _reshaped,
    Tensor.new_full: _reshaped,
    Tensor.new_ones: _reshaped,
    Tensor.new_zeros: _reshaped,
    Tensor.reshape: _reshaped,
    Tensor.split: _split,
    Tensor.split_with_sizes: _split,
    Tensor.unflatten: _unflattened,
    Tensor.view: _reshaped,
    functional.layer_norm: _normalised,
    functional.rms_norm: _normalised,
    torch.conv1d: _grouped,
    torch.conv2d: _grouped,
    torch.conv3d: _grouped,
    torch.empty: _filled,
    torch.full: _filled,
    torch.ones: _filled,
    torch.reshape: _reshaped,
    torch.split: _split,
    torch.split_with_sizes: _split,
    torch.unflatten: _unflattened,
    torch.zeros: _filled,
}
