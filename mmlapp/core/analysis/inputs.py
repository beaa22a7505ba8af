# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Examples without contents, which would hide what is wrong.

Where all pixels or tokens are alike, so are all positions behind the first
layer: an attention has nothing to choose from, whatever its scale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..snapshot import evaluated
from ..trace import tensors_in

SEED = 0


def varied(model: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns an example with contents for one that has none.

    Floating tensors with one value alone become random numbers within
    (0, 1), and whole numbers that are all zero become zeros and ones. Others
    stay, and so do all where the network does not return tensors of the same
    shapes for what is varied, all finite.

    Args:
        model (nn.Module): The network; it is put back as it was.
        args (tuple): Its positional arguments.

    Examples:
        >>> x, steps = varied(
        ...     nn.Bilinear(2, 1, 1), (torch.zeros(3, 2), torch.rand(3, 1))
        ... )
        >>> x.unique().numel()
        6
    """
    other = tree_map_only(Tensor, _with_contents, args)
    pairs = zip(tensors_in(args), tensors_in(other), strict=True)
    if all(first is second for first, second in pairs):
        return args
    try:
        wanted, found = _outputs(model, args), _outputs(model, other)
    except Exception:
        # Of what is given itself the analysis says why it does not run.
        return args
    alike = [x.shape for x in wanted] == [x.shape for x in found]
    finite = all(bool(x.isfinite().all()) for x in found)
    return other if alike and finite else args


def _with_contents(tensor: Tensor) -> Tensor:
    """Random numbers in place of one value for all; others as they are."""
    plain = type(tensor) is Tensor and tensor.layout is torch.strided
    if not plain or tensor.is_meta or tensor.numel() < 2:
        return tensor
    first = tensor.flatten()[0]
    if not bool((tensor == first).all()):
        return tensor
    generator = torch.Generator().manual_seed(SEED)
    if tensor.is_floating_point():
        drawn = torch.rand(tensor.shape, generator=generator)
    elif tensor.dtype is not torch.bool and first == 0:
        # Indices, of words for instance: of two there are nearly always two.
        drawn = torch.randint(2, tensor.shape, generator=generator)
    else:
        return tensor
    # Strides, such as those of channels_last, stay.
    other = torch.empty_like(tensor.detach()).copy_(drawn)
    return other.requires_grad_(tensor.requires_grad)


def _outputs(model: nn.Module, args: tuple[Any, ...]) -> list[Tensor]:
    """What a network returns in evaluation mode."""
    # It may change what it is given in place.
    args = tree_map_only(Tensor, lambda x: x.detach().clone(), args)
    with evaluated(model):
        return list(tensors_in(model(*args)))
