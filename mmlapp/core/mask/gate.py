# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Masks multiplied into the parameters that emit a channel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Function

from ..mixins import take_off


class MaskSource(Protocol):
    """What a masked parameter asks for its mask."""

    active: bool
    threshold: Tensor
    gate: Tensor
    mask: Tensor
    slope: Tensor
    group: Tensor
    total: int


class ApplyMask(Function):
    r"""Multiplies a parameter by a hard mask; thresholds get the surrogate.

    Forward :math:`\tilde w = m w` with :math:`m = 1[s > t]`; backward
    :math:`\partial L/\partial w = m\, \partial L/\partial \tilde w`,
    :math:`\partial L/\partial m_i = \langle \partial L/\partial \tilde w_i,
    w_i \rangle` and :math:`\partial L/\partial t_g = -\sum_{i \in g}
    h(s_i - t_g)\, \partial L/\partial m_i`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        parameter: Tensor,
        threshold: Tensor,
        gate: Tensor,
        mask: Tensor,
        slope: Tensor,
        group: Tensor,
        dim: int,
    ) -> Tensor:
        """Returns the masked parameter.

        Args:
            ctx (Any): Autograd context.
            parameter (Tensor): Any shape.
            threshold (Tensor): One per group, shape ``[groups]``.
            gate (Tensor): Gets the gradient of the mask, ``[size]``.
            mask (Tensor): Mask along ``dim``, shape ``[size]``.
            slope (Tensor): Surrogate slope along ``dim``, ``[size]``.
            group (Tensor): Group of every index, ``[size]``.
            dim (int): The masked dimension.
        """
        view = [1] * parameter.dim()
        view[dim] = -1
        shaped = mask.to(parameter.dtype).view(view)
        ctx.save_for_backward(parameter, shaped, slope, group)
        ctx.dim, ctx.groups = dim, threshold.shape[0]
        ctx.threshold_dtype = threshold.dtype
        return parameter * shaped

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of parameter, thresholds and mask."""
        (grad,) = grads
        parameter, shaped, slope, group = ctx.saved_tensors
        grad_threshold = grad_gate = None
        if ctx.needs_input_grad[1]:
            grad_gate = _sum_but(grad * parameter, ctx.dim, slope.dtype)
            grad_threshold = (
                slope.new_zeros(ctx.groups)
                .index_add(0, group, -grad_gate * slope)
                .to(ctx.threshold_dtype)
            )
        return grad * shaped, grad_threshold, grad_gate, *[None] * 4


def _sum_but(tensor: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Sums over all dimensions but one."""
    if tensor.dim() == 1:  # of a norm, which most masks belong to
        return tensor.to(dtype)
    rows = tensor.movedim(dim, 0)
    return rows.reshape(rows.shape[0], -1).sum(dim=1, dtype=dtype)


class HardMask(Function):
    r"""The mask itself: :math:`m = 1[s > t]` with a surrogate slope."""

    @staticmethod
    def forward(
        ctx: Any, threshold: Tensor, mask: Tensor, slope: Tensor, group: Tensor
    ) -> Tensor:
        """Returns the mask as numbers, shape ``[channels]``."""
        ctx.save_for_backward(slope, group)
        ctx.groups = threshold.shape[0]
        return mask.to(slope.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradient of the thresholds."""
        (grad,) = grads
        slope, group = ctx.saved_tensors
        summed = slope.new_zeros(ctx.groups).index_add(
            0, group, -grad.to(slope.dtype) * slope
        )
        return summed, None, None, None


class ParameterMask:
    """Masks one dimension of one parameter.

    Args:
        source (MaskSource): Holds thresholds and masks of all groups.
        channels (Tensor): Global channel of every index along ``dim``, or
            the number of channels where none applies: the last entry of the
            source's vectors is always kept. Shape ``[size]``.
        dim (int): The masked dimension.
        learn (bool): Whether the thresholds learn through this parameter.
            Defaults to True.
    """

    def __init__(
        self,
        source: MaskSource,
        channels: Tensor,
        dim: int,
        learn: bool = True,
    ) -> None:
        self.source, self.dim, self.learn = source, dim, learn
        self.channels: Tensor | slice = _as_slice(channels)

    @property
    def active(self) -> bool:
        """Whether any mask applies at the moment."""
        return self.source.active

    def __call__(self, parameter: Tensor) -> Tensor:
        """Returns the masked parameter."""
        source = self.source
        threshold, gate = source.threshold, source.gate
        if not self.learn:
            threshold, gate = threshold.detach(), gate.detach()
        return ApplyMask.apply(  # type: ignore[no-any-return]
            parameter,
            threshold,
            gate[self.channels],
            source.mask[self.channels],
            source.slope[self.channels],
            source.group[self.channels],
            self.dim,
        )


def _as_slice(channels: Tensor) -> Tensor | slice:
    """Indexing by a slice copies nothing."""
    start, size = int(channels[0]), channels.numel()
    if torch.equal(channels, torch.arange(start, start + size)):
        return slice(start, start + size)
    return channels


class Masked:
    """Mixin of modules some of whose parameters are read through masks."""


@cache
def _masked_class(cls: type, names: frozenset[str]) -> type:
    """A subclass whose named parameters are properties.

    The parameters stay where ``nn.Module`` keeps them: state dict,
    optimizers and initialisers see them unmasked. The name is kept, since
    MMEngine's initialisers compare class names.
    """
    body = {
        '__module__': cls.__module__,
        '__qualname__': cls.__qualname__,
        **{name: _masked_property(name) for name in names},
    }
    return type(cls.__name__, (cls, Masked), body)


def _masked_property(name: str) -> property:
    def read(self: nn.Module) -> Tensor | None:
        value: Tensor | None = self._parameters[name]
        masks: dict[str, list[ParameterMask]] = self.__dict__['_masks']
        for mask in masks[name]:
            if mask.active and value is not None:
                value = mask(value)
        return value

    def write(self: nn.Module, value: nn.Parameter | None) -> None:
        self.register_parameter(name, value)

    return property(read, write)


def add_mask(module: nn.Module, name: str, mask: ParameterMask) -> None:
    """Makes a module read one of its parameters through a mask.

    Args:
        module (nn.Module): The module; its class becomes a subclass.
        name (str): Name of the parameter, such as ``weight``.
        mask (ParameterMask): The mask.
    """
    masks = dict(module.__dict__.get('_masks', {}))
    masks[name] = [*masks.get(name, []), mask]
    base = (
        type(module).__bases__[0]
        if isinstance(module, Masked)
        else (type(module))
    )
    module.__class__ = _masked_class(base, frozenset(masks))
    module.__dict__['_masks'] = masks


@dataclass(frozen=True)
class MaskPlace:
    """Where a mask belongs, by name.

    Args:
        module (str): Qualified name of the module.
        parameter (str): Name of the parameter in it.
        mask (ParameterMask): The mask.
    """

    module: str
    parameter: str
    mask: ParameterMask


def restore_masks(model: nn.Module, places: Iterable[MaskPlace]) -> None:
    """Puts masks on modules that took the place of masked ones.

    Conversion to and from synchronised batch norm replaces modules.

    Args:
        model (nn.Module): The network.
        places (Iterable[MaskPlace]): All its masks.
    """
    replaced = [
        (module, place)
        for place in places
        if not isinstance(module := model.get_submodule(place.module), Masked)
    ]
    for module, place in replaced:
        add_mask(module, place.parameter, place.mask)


def remove_masks(module: nn.Module) -> None:
    """Gives a module back its own class.

    Args:
        module (nn.Module): A module, masked or not.
    """
    take_off(module, Masked, '_masks')
