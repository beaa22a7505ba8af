# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether a channel plan fits a network, asked before anything changes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..bypass.branches import PLACEMENTS, Bypassed, build_bypass
from ..errors import PruningError
from .plan import BypassPlan, ChannelPlan


def check_fit(model: nn.Module, plan: ChannelPlan) -> dict[str, _ConvNd]:
    """Compares every entry of a plan with a network.

    Args:
        model (nn.Module): A network, prunable or plain.
        plan (ChannelPlan): The plan.

    Returns:
        dict[str, _ConvNd]: Bypasses that the plan knows and the network
        does not have yet.

    Raises:
        PruningError: If the plan does not fit.
    """
    for name, dims in plan.slices.items():
        shape = stored(model, name).shape
        for dim, kept in dims.items():
            if dim >= len(shape) or shape[dim] != kept.size:
                raise _misfit(
                    f'{name} has shape {tuple(shape)}, the plan expects '
                    f'{kept.size} in dimension {dim}'
                )
    for name, kept in plan.attributes.items():
        owner, _, leaf = name.rpartition('.')
        value = getattr(_module(model, owner, name), leaf, None)
        if value is None:
            raise _misfit(f'it has no {name}')
        if value != kept.size:
            raise _misfit(f'{name} is {value}, the plan expects {kept.size}')
    for name, module in model.named_modules():
        if isinstance(module, Bypassed) and name not in plan.bypasses:
            raise _misfit(f'{name} has a bypass, the plan none')
    missing = {}
    for name, entry in plan.bypasses.items():
        bypass = _check_bypass(name, _module(model, name, name), entry)
        if bypass is not None:
            missing[name] = bypass
    return missing


def stored(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer as it is stored, not as a mask shows it.

    Args:
        model (nn.Module): The network.
        name (str): Qualified name.

    Returns:
        Tensor: The very object.

    Raises:
        PruningError: If the network has none of this name.
    """
    owner, _, leaf = name.rpartition('.')
    module = _module(model, owner, name)
    value: Tensor | None = module._parameters.get(leaf)
    value = module._buffers.get(leaf) if value is None else value
    if value is None:
        raise _misfit(f'it has no {name}')
    return value


def _check_bypass(
    name: str, conv: nn.Module, entry: BypassPlan
) -> _ConvNd | None:
    """Returns the bypass that a layer lacks; None if it has the right one."""
    if entry.placement not in PLACEMENTS:
        raise _misfit(f'placement={entry.placement!r} of {name} is unknown')
    bypass = build_bypass(conv, entry.type)
    if isinstance(bypass, str):
        raise _misfit(f'{name} cannot take its {entry.type} bypass: {bypass}')
    sizes = entry.inputs.size, entry.outputs.size
    if sizes != (bypass.in_channels, bypass.out_channels):
        raise _misfit(
            f'{name} joins {bypass.in_channels} to {bypass.out_channels} '
            f'channels, the plan expects {sizes[0]} and {sizes[1]}'
        )
    if not isinstance(conv, Bypassed):
        return bypass
    present = conv.bypass
    if (
        not isinstance(present, _ConvNd)
        or present._parameters['weight'].shape != bypass.weight.shape  # type: ignore[union-attr]
        or conv.kept is not None
    ):
        raise _misfit(f'{name} has another bypass than {entry.type}')
    return None


def _module(model: nn.Module, owner: str, name: str) -> nn.Module:
    try:
        return model.get_submodule(owner)
    except AttributeError as error:
        raise _misfit(f'it has no {name}') from error


def _misfit(reason: str) -> PruningError:
    return PruningError(f'the plan does not fit the model: {reason}')
