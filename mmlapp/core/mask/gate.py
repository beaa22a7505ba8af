# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The gate multiplied into the parameters that emit a channel."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function


class GateSource(Protocol):
    """What a masked parameter asks for its factor.

    ``factor`` has one number in [0, 1] per channel, shape ``[channels]``:
    the gate, or in training what a method puts in its place; ``active`` says
    whether it applies at the moment.
    """

    active: bool

    @property
    def factor(self) -> Tensor:
        """One number per channel, ``[channels]``."""


def at_channels(gate: Tensor, channels: Tensor) -> Tensor:
    """Looks the gate up where channels live; one where there is none.

    Args:
        gate (Tensor): One value per channel, ``[channels]``.
        channels (Tensor): Global channel of every index, -1 where no channel
            owns it, so that nobody removes it. Shape ``[size]``.

    Returns:
        Tensor: Shape ``[size]``, of the type of ``gate``.

    Examples:
        >>> at_channels(torch.tensor([0.0, 0.5]), torch.tensor([1, -1, 0]))
        tensor([0.5000, 1.0000, 0.0000])
    """
    channels = channels.to(gate.device)
    # -1 reads channel 0 and is overwritten below, where it also passes no
    # gradient on: channel 0 learns nothing from it.
    found = gate[channels.clamp_min(0)]
    return torch.where(channels < 0, torch.ones_like(found), found)


class ApplyGate(Function):
    r"""Multiplies a parameter by the gate along one dimension.

    Forward :math:`\tilde w_i = g_i w_i`; backward :math:`\partial L/\partial
    w_i = g_i\, \partial L/\partial \tilde w_i` and
    :math:`\partial L/\partial g_i = \langle \partial L/\partial \tilde w_i,
    w_i \rangle`. Written by hand, for autograd would keep the product of
    both in memory for every parameter; what nobody asks for is not computed.
    """

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, gate: Tensor, dim: int) -> Tensor:
        """Returns the product.

        Args:
            ctx (Any): Autograd context.
            parameter (Tensor): Any shape.
            gate (Tensor): Factors along ``dim``, shape ``[size]``.
            dim (int): The gated dimension.
        """
        shaped = along(parameter, gate, dim)
        ctx.save_for_backward(parameter, shaped)
        ctx.dim, ctx.dtype = dim, gate.dtype
        return parameter * shaped

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of parameter and gate."""
        (grad,) = grads
        parameter, shaped = ctx.saved_tensors
        # A removed filter (g = 0) gets a zero gradient, but its gate still
        # learns from <grad, w>: what the loss would do if it came back.
        grad_gate = None
        # False at readers, whose gate is detached, and outside the phase.
        if ctx.needs_input_grad[1]:
            grad_gate = _sum_but(grad * parameter, ctx.dim, ctx.dtype)
        return grad * shaped, grad_gate, None


class LookUp(Function):
    """The gate at the indices of a dimension, one where there is no channel.

    Written by hand: autograd would sort the indices, and keep them as saved
    tensors, of which a checkpointed forward must have as many each time.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, places: Tensor) -> Tensor:
        """Returns the factors, ``[size]``.

        Args:
            ctx (Any): Autograd context.
            gate (Tensor): One value per channel, ``[channels]``.
            places (Tensor): Channel of every index, the number of channels
                for none; ``[size]``.
        """
        ctx.places, ctx.count = places, len(gate)
        return _at_places(gate, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Sums over the indices of each channel, ``[channels]``."""
        (grad,) = grads
        blank = grad.new_zeros(ctx.count + 1)
        # The last entry, of no channel, learns nothing.
        return blank.index_add(0, ctx.places, grad)[:-1], None


def look_up(gate: Tensor, places: Tensor) -> Tensor:
    """Looks the gate up at the indices of a dimension.

    Args:
        gate (Tensor): One value per channel, ``[channels]``.
        places (Tensor): Channel of every index, the number of channels for
            none; ``[size]``.
    """
    if _transformed():
        return _at_places(gate, places)
    found: Tensor = LookUp.apply(gate, places)
    return found


def apply_gate(parameter: Tensor, gate: Tensor, dim: int) -> Tensor:
    """Multiplies a parameter by the gate along one dimension.

    Args:
        parameter (Tensor): Any shape.
        gate (Tensor): Factors along ``dim``, shape ``[size]``.
        dim (int): The gated dimension.
    """
    if _transformed():
        return parameter * along(parameter, gate, dim)
    product: Tensor = ApplyGate.apply(parameter, gate, dim)
    return product


def along(parameter: Tensor, gate: Tensor, dim: int) -> Tensor:
    """Returns a gate in the shape that multiplies a parameter.

    Args:
        parameter (Tensor): Any shape.
        gate (Tensor): Factors along ``dim``, shape ``[size]``.
        dim (int): The gated dimension.

    Examples:
        >>> along(torch.rand(2, 3, 1, 1), torch.rand(3), 1).shape
        torch.Size([1, 3, 1, 1])
    """
    view = [1] * parameter.dim()
    view[dim] = -1
    # [size] -> [1, ..., size, ..., 1]. Half precision stays what it is.
    return gate.to(parameter.dtype).view(view)


def _transformed() -> bool:
    """Whether vmap or torch.func.grad runs, which differentiate themselves.

    They know no function that is written by hand.
    """
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def _at_places(gate: Tensor, places: Tensor) -> Tensor:
    """The gate at every place, ``[size]``; the one behind it is one."""
    # [channels] -> [channels + 1] -> [size]
    return torch.cat([gate, gate.new_ones(1)])[places]


def _sum_but(tensor: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Sums over all dimensions but one."""
    if tensor.dim() == 1:  # of a norm, which most masks belong to
        return tensor.to(dtype)
    # [.., size, ..] -> [size, ...]
    rows = tensor.movedim(dim, 0)
    # [size, everything else]; sums of half precision are taken in float32.
    return rows.reshape(rows.shape[0], -1).sum(dim=1, dtype=dtype)


class ParameterMask:
    """Masks one dimension of one parameter.

    Args:
        source (GateSource): Holds the gate of all channels.
        channels (Tensor): Global channel of every index along ``dim``, -1
            where none applies. Shape ``[size]``.
        dim (int): The masked dimension.
        learn (bool): Whether the gate gets a gradient from this parameter.
            Defaults to True.
    """

    def __init__(
        self,
        source: GateSource,
        channels: Tensor,
        dim: int,
        learn: bool = True,
    ) -> None:
        self.source, self.dim, self.learn = source, dim, learn
        # For masks of other units, which multiply in other ways.
        self.channels = channels
        # A run of channels, or one at every index.
        self._run = _as_slice(channels)
        self._places = torch.where(channels < 0, len(source.factor), channels)

    @property
    def active(self) -> bool:
        """Whether the gate applies at the moment."""
        return self.source.active

    def __call__(self, parameter: Tensor) -> Tensor:
        """Returns the masked parameter."""
        return apply_gate(parameter, self.factor(), self.dim)

    def factor(self) -> Tensor:
        """Returns the gate at every index, ``[size]``."""
        gate = self.source.factor
        if not self.learn:
            gate = gate.detach()
        # The lookup is part of the graph: backward adds [size] into the
        # gradient of the gate, [channels], over all indices of a channel
        # and over all parameters that learn.
        if self._run is not None:
            return gate[self._run]
        return look_up(gate, self._places_on(gate.device))

    def _places_on(self, device: torch.device) -> Tensor:
        """The places where the gate is, once it was there."""
        # One without values would take theirs away.
        if self._places.device != device and device.type != 'meta':
            self._places = self._places.to(device)
        return self._places


def _as_slice(channels: Tensor) -> slice | None:
    """Indexing by a slice copies nothing; None if they are no run."""
    start, size = int(channels[0]), channels.numel()
    # 4 5 6 -> 4:7
    run = torch.arange(start, start + size)
    if start >= 0 and torch.equal(channels, run):
        return slice(start, start + size)
    return None
