# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Modules that read parameters through masks, and where they are."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn

from ..errors import PruningError
from ..mixins import derive, take_off
from ..trace.running import in_forward
from .gate import ParameterMask


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
    kind = type(module)
    base = kind.__bases__[0] if isinstance(module, Masked) else kind
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
