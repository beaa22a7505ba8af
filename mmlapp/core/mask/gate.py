# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The gate multiplied into the parameters that emit a channel."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Function

from ..errors import PruningError
from ..mixins import derive, take_off
from ..trace.running import in_forward


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
        view = [1] * parameter.dim()
        view[dim] = -1
        # [size] -> [1, ..., size, ..., 1]. Half precision stays what it is.
        shaped = gate.to(parameter.dtype).view(view)
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
        return torch.cat([gate, gate.new_ones(1)])[places]

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
    # vmap and torch.func.grad differentiate on their own.
    if torch._C._are_functorch_transforms_active():
        return torch.cat([gate, gate.new_ones(1)])[places]
    found: Tensor = LookUp.apply(gate, places)
    return found


def apply_gate(parameter: Tensor, gate: Tensor, dim: int) -> Tensor:
    """Multiplies a parameter by the gate along one dimension.

    Args:
        parameter (Tensor): Any shape.
        gate (Tensor): Factors along ``dim``, shape ``[size]``.
        dim (int): The gated dimension.
    """
    # vmap and torch.func.grad differentiate on their own.
    if torch._C._are_functorch_transforms_active():
        view = [1] * parameter.dim()
        view[dim] = -1
        return parameter * gate.to(parameter.dtype).view(view)
    product: Tensor = ApplyGate.apply(parameter, gate, dim)
    return product


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


class Masked:
    """Mixin of modules some of whose parameters are read through masks."""


@cache
def _masked_class(cls: type, names: frozenset[str]) -> type:
    """A subclass whose named parameters are properties.

    The parameters stay where ``nn.Module`` keeps them: state dict,
    optimizers and initialisers see them unmasked. So does whoever reads the
    property outside of a forward, since writes must reach the parameter and
    not its product with the gate.
    """
    body = {name: _masked_property(name) for name in names}
    return derive(cls, (cls, Masked), (_masked_class, (cls, names)), **body)


def _masked_property(name: str) -> property:
    def read(self: nn.Module) -> Tensor | None:
        if name not in self._parameters:
            # Taken away by somebody; as any module would say.
            raise AttributeError(f'{type(self).__name__} has no {name}')
        value: Tensor | None = self._parameters[name]
        if value is None or not in_forward():
            return value
        return apply_masks(self, name, value)

    def write(self: nn.Module, value: nn.Parameter | None) -> None:
        if name not in self._parameters and isinstance(value, Tensor):
            # As old schemes do, which compute it from others at each call.
            _check_parameter(self, name, value)
        self.register_parameter(name, value)

    return property(read, write)


def _check_parameter(module: nn.Module, name: str, value: Tensor) -> None:
    if not isinstance(value, nn.Parameter):
        raise _misses(f'{type(module).__name__} has a tensor now', name)


def add_mask(module: nn.Module, name: str, mask: ParameterMask) -> None:
    """Makes a module read one of its parameters through a mask.

    Args:
        module (nn.Module): The module; its class becomes a subclass.
        name (str): Name of the parameter, such as ``weight``.
        mask (ParameterMask): The mask.
    """
    masks = dict(module.__dict__.get('_masks', {}))
    masks[name] = [*masks.get(name, []), mask]
    # One subclass for all masked names, not one on top of another.
    base = (
        type(module).__bases__[0]
        if isinstance(module, Masked)
        else (type(module))
    )
    module.__class__ = _masked_class(base, frozenset(masks))
    module.__dict__['_masks'] = masks


@dataclass(frozen=True)
class AppliedMask:
    """Where a mask belongs, by name.

    Args:
        module (str): Qualified name of the module.
        parameter (str): Name of the parameter in it.
        mask (ParameterMask): The mask.
    """

    module: str
    parameter: str
    mask: ParameterMask


def restore_masks(model: nn.Module, masks: Iterable[AppliedMask]) -> None:
    """Puts masks on modules that took the place of masked ones.

    Conversion to and from synchronised batch norm replaces modules.

    Args:
        model (nn.Module): The network.
        masks (Iterable[AppliedMask]): All its masks.

    Raises:
        PruningError: If one of them has no such parameter, as where a norm
            was folded into its convolution.
    """
    replaced = [
        (module, applied)
        for applied in masks
        if not isinstance(module := _owner(model, applied), Masked)
    ]
    for module, applied in replaced:
        add_mask(module, applied.parameter, applied.mask)


def _owner(model: nn.Module, applied: AppliedMask) -> nn.Module:
    """The module where a mask belongs, whatever it is by now."""
    module: nn.Module | None = None
    with suppress(AttributeError):
        module = model.get_submodule(applied.module)
    if module is None or applied.parameter not in module._parameters:
        kind = type(module).__name__
        now = 'gone' if module is None else f'of type {kind} now'
        raise _misses(f'{applied.module} is {now}', applied.parameter)
    return module


def _misses(what: str, parameter: str) -> PruningError:
    return PruningError(
        f'{what}, without the {parameter} through which its channels are '
        'removed: they would be back. Make the network small first, with '
        'narrow or tools/deploy.py, and then rewrite it, as with fuse_conv_bn'
    )


# The children of a module, the name of one of them, that one, and the name of
# one of its parameters.
Place = tuple[dict[str, Any], str, nn.Module, str]


def places_of(
    model: nn.Module, names: Iterable[tuple[str, str]]
) -> list[Place]:
    """Returns where parameters are.

    Args:
        model (nn.Module): The network.
        names (Iterable[tuple[str, str]]): Names of their modules, and their
            own ones there.
    """
    found = []
    for name, parameter in dict.fromkeys(names):
        parent, _, leaf = name.rpartition('.')
        module = model.get_submodule(name)
        # The network itself hangs nowhere; a buffer has no masks.
        if leaf and parameter in module._parameters:
            children = model.get_submodule(parent)._modules
            found.append((children, leaf, module, parameter))
    return found


def all_in_place(places: Iterable[Place]) -> bool:
    """Whether nothing was replaced; asked before each forward.

    Args:
        places (Iterable[Place]): From :func:`places_of`.
    """
    return all(
        children.get(leaf) is module and parameter in module._parameters
        for children, leaf, module, parameter in places
    )


def masked_parameters(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Returns the masked parameters of a network, each once.

    Args:
        model (nn.Module): The network.

    Returns:
        list[tuple[nn.Module, str]]: The first module that has it, and its
        name there.
    """
    found: dict[int, tuple[nn.Module, str]] = {}
    for module in model.modules():
        for name in module.__dict__.get('_masks', ()):
            value = module._parameters[name]
            if value is not None:
                found.setdefault(id(value), (module, name))
    return list(found.values())


def apply_masks(module: nn.Module, name: str, value: Tensor) -> Tensor:
    """Returns what a masked module reads in place of a parameter.

    Args:
        module (nn.Module): The module.
        name (str): Name of the parameter in it.
        value (Tensor): What is stored.
    """
    masks: dict[str, list[ParameterMask]] = module.__dict__['_masks']
    for mask in masks[name]:
        if mask.active:
            value = mask(value)
    return value


def remove_masks(module: nn.Module) -> None:
    """Gives a module back its own class.

    Args:
        module (nn.Module): A module, masked or not.
    """
    take_off(module, Masked, '_masks')
