# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Masked layers on trial, without the rows that their masks make zero.

A masked network computes as much as the whole one, most of it zeros: of a
group of 384 channels three are left. What a row of zeros gives is known,
whatever the layer reads. The others read all inputs, as with masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..mask.gate import ParameterMask, along
from ..mask.living import RunsOnLiving, among_zeros
from ..mask.masked import Masked
from ..mixins import mix_in

# Numbers of a weight from which on it is faster to leave zeros out.
LEAST = 2**14
CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d


@dataclass(frozen=True)
class LivingRows:
    """What of a masked weight, ``[out, in, ..]``, is not zero.

    Args:
        size (int): Number of all rows, out.
        kept (Tensor): Indices of those that are not zero, ``[kept]``.
        factors (tuple[Tensor, ...]): Gates that are not one everywhere, in
            the shape that multiplies ``[kept, in, ..]``.
    """

    size: int
    kept: Tensor
    factors: tuple[Tensor, ...]

    def weight(self, layer: nn.Module) -> Tensor:
        """Returns the masked weight without its zeros, ``[kept, in, ..]``.

        Args:
            layer (nn.Module): The layer; it stores ``[out, in, ..]``.
        """
        stored = layer._parameters['weight']
        assert stored is not None
        found = stored.index_select(0, self.kept)
        for factor in self.factors:
            found = found * factor
        return found

    def outputs(self, part: Tensor, bias: Tensor | None, dim: int) -> Tensor:
        """Puts what the rows give into their places, and adds the bias.

        Args:
            part (Tensor): What they give without bias, ``[.., kept, ..]``.
            bias (Tensor, optional): With masks, ``[out]``.
            dim (int): Dimension of the channels, from the end.
        """
        y = among_zeros(part, dim, self.kept, self.size)
        if bias is None:
            return y
        # [out] -> [out, 1, ..], ones for what comes behind the channels.
        return y + bias.to(y.dtype).view(-1, *[1] * (-1 - dim))


def skip_zero_rows(model: nn.Module) -> None:
    """Lets masked layers compute without zero rows, in place.

    Args:
        model (nn.Module): A network with masks whose gate does not change.
    """
    modules = list(model.modules())
    # What runs on living channels has twins made of it, without masks.
    twins = {
        part
        for module in modules
        if isinstance(module, RunsOnLiving)
        for part in module.modules()
    }
    for module in modules:
        mixin = _mixin_of(module)
        if mixin is None or module in twins:
            continue
        rows = _rows_of(module)
        if rows is not None:
            mix_in(module, mixin)
            module.__dict__['_rows'] = rows


def _mixin_of(module: nn.Module) -> type | None:
    """What computes a layer without some rows; None for other modules."""
    if not isinstance(module, Masked) or 'forward' in vars(module):
        return None
    cls = type(module)
    if cls.forward is nn.Linear.forward:
        return LinearOfRows
    for kind in CONVOLUTIONS:
        own = cls.forward, getattr(cls, '_conv_forward', None)
        if own == (kind.forward, kind._conv_forward) and module.groups == 1:
            return ConvolutionOfRows
    return None


def _rows_of(module: nn.Module) -> LivingRows | None:
    """Which rows are not zero; None if none is, or it is not worth it."""
    stored = module._parameters.get('weight')
    masks: list[ParameterMask] = module.__dict__['_masks'].get('weight', [])
    # Other units multiply in other ways.
    plain = all(type(mask) is ParameterMask for mask in masks)
    if stored is None or stored.numel() < LEAST or not plain:
        return None
    if stored.is_meta or not any(mask.dim == 0 for mask in masks):
        return None
    gates = [(mask.dim, mask.factor().to(stored)) for mask in masks]
    # Of several gates a row has to pass all, [out].
    passed = torch.stack([gate != 0 for dim, gate in gates if dim == 0])
    kept = passed.all(0).nonzero()[:, 0]
    if len(kept) in (0, len(stored)):
        return None
    factors = []
    for dim, gate in gates:
        gate = gate[kept] if dim == 0 else gate
        if not bool((gate == 1).all()):
            factors.append(along(stored, gate, dim))
    return LivingRows(len(stored), kept, tuple(factors))


class LinearOfRows:
    """Mixin of a masked linear layer, computed without zero rows."""

    def forward(self, x: Tensor) -> Tensor:
        """Computes the layer.

        Args:
            x (Tensor): Its input, ``[*, in]``.
        """
        assert isinstance(self, nn.Linear)
        rows: LivingRows = self.__dict__['_rows']
        part = functional.linear(x, rows.weight(self))
        return rows.outputs(part, self.bias, -1)


class ConvolutionOfRows:
    """Mixin of a masked convolution, computed without zero rows."""

    def forward(self, x: Tensor) -> Tensor:
        """Computes the convolution.

        Args:
            x (Tensor): Its input, ``[n, in, *positions]``.
        """
        assert isinstance(self, CONVOLUTIONS)
        rows: LivingRows = self.__dict__['_rows']
        weight = rows.weight(self)
        part = self._conv_forward(x, weight, None)
        return rows.outputs(part, self.bias, -1 - len(self.kernel_size))
