# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether a channel plan fits a network, asked before anything changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..bypass.beside import Bypassed
from ..bypass.branch import BRANCHES, Branch
from ..errors import PruningError
from ..forward_names import forward_names
from ..plan.entries import BranchPlan
from ..plan.kept import Kept
from ..plan.kinds import layer_kinds
from ..plan.layout import tensor_shapes
from ..plan.plan import ChannelPlan
from ..pruner import Pruner
from ..trace.attributes import count_at
from ..units import UNITS
from .agreement import find_disagreement


def check_plan(model: nn.Module, plan: ChannelPlan) -> dict[str, Branch]:
    """Compares every entry of a plan with a network, and the other way.

    The network must have the tensors that the plan knows, no others, of the
    same shapes and in layers of the same kind. One difference does no harm:
    another number of outputs where the plan removes nothing, since a layer
    that read them would have another number of inputs. So a head may have
    another number of classes.

    Args:
        model (nn.Module): A network, prunable or plain.
        plan (ChannelPlan): The plan.

    Returns:
        dict[str, Branch]: Branches that the plan knows and the network does
        not have yet.

    Raises:
        PruningError: If the plan does not fit.
    """
    if not isinstance(plan, ChannelPlan):
        raise PruningError(
            f'plan is of type {type(plan).__name__}: expected a ChannelPlan, '
            'as pruner.plan() makes it and ChannelPlan.load reads it'
        )
    # Names and shapes first: what follows looks tensors up by them.
    _check_tensors(model, plan)
    _check_kinds(model, plan)
    _check_slices(model, plan)
    _check_attributes(model, plan)
    missing = _check_branches(model, plan)
    _check_biases(model, plan)
    _check_details(model, plan)
    _check_masks(model, plan)
    disagreement = find_disagreement(model, plan)
    if disagreement is not None:
        raise _misfit(
            f'{disagreement}. It is damaged, or of a network that is wired '
            'otherwise: take the plan of this one, which '
            'pruner.plan().save(path) writes'
        )
    return missing


def _check_tensors(model: nn.Module, plan: ChannelPlan) -> None:
    """Compares the names and shapes of all tensors."""
    found = tensor_shapes(model, _additions(model))
    for name, shape in plan.shapes.items():
        if name not in found:
            remedy = (
                _part_of(plan, found)
                or _whole_of(plan, found)
                or _rest_of(plan, found)
            )
            raise _misfit(f'it has no {name}{remedy}')
        # A head of other classes: outputs that nothing removes.
        free = 0 not in plan.slices.get(name, {})
        if not _same_shape(found[name], shape, free):
            raise _other_network(
                f'{name} has shape {found[name]}, the plan expects {shape}'
            )
    pruner = model._modules.get('pruner')
    if isinstance(pruner, Pruner) and pruner.layout.shapes == plan.shapes:
        # Its own network: what was added to it since is the user's.
        return
    for name in found:
        if name not in plan.shapes:
            raise _other_network(f'the plan does not know {name}')


def _check_kinds(model: nn.Module, plan: ChannelPlan) -> None:
    """Layers with tensors of the same shapes may be others."""
    found = layer_kinds(model, _additions(model))
    for name, kind in plan.kinds.items():
        # One of a kind that is not known is what its own code makes of it.
        if found.get(name, kind) != kind:
            raise _other_network(
                f'{name} is of another kind: {found[name]}, the plan expects '
                f'{kind}'
            )


def _check_slices(model: nn.Module, plan: ChannelPlan) -> None:
    """What is sliced must be there, as large as the plan says."""
    for name, dims in slices_of(model, plan).items():
        shape = stored(model, name).shape
        for dim, kept in dims.items():
            if dim >= len(shape) or shape[dim] != kept.size:
                raise _other_network(
                    f'{name} has shape {tuple(shape)}, the plan expects '
                    f'{kept.size} in dimension {dim}'
                )


def slices_of(
    model: nn.Module, plan: ChannelPlan
) -> dict[str, Mapping[int, Kept]]:
    """What a plan slices, without buffers that a forward has yet to make.

    Those that no state dict has: it makes them as wide as the network is.

    Args:
        model (nn.Module): The network.
        plan (ChannelPlan): The plan.

    Raises:
        PruningError: If the network has no module for one of them.
    """
    return {
        name: dims
        for name, dims in plan.slices.items()
        if name in plan.shapes or not _is_to_come(model, name)
    }


def _is_to_come(model: nn.Module, name: str) -> bool:
    """Whether a forward may make a buffer that is not there."""
    if _find(model, name) is not None:
        return False
    owner, _, leaf = name.rpartition('.')
    known = leaf in module_at(model, owner, name)._buffers
    return known or any(leaf in forward_names(m) for m in model.modules())


def _check_attributes(model: nn.Module, plan: ChannelPlan) -> None:
    """Numbers of layers and blocks must still be those of the dense ones."""
    for name, kept in plan.attributes.items():
        owner, _, leaf = name.rpartition('.')
        module = module_at(model, owner, name)
        value = getattr(module, leaf.partition('[')[0], None)
        if value is None:
            raise _misfit(f'it has no {name}')
        # The dense value, as of `in_channels`, not the narrow one.
        if count_at(module, leaf) != kept.size:
            whole, bracket, place = name.partition('[')
            where = f' at [{place}' * bool(bracket)
            raise _other_network(
                f'{whole} is {value}, the plan expects {kept.size}{where}'
            )


def _check_branches(model: nn.Module, plan: ChannelPlan) -> dict[str, Branch]:
    """Returns the branches that layers lack; others must be the right ones."""
    # The other way round: a branch that the plan does not know.
    for name, module in model.named_modules():
        if isinstance(module, Bypassed) and name not in plan.branches:
            raise _misfit(
                f'{name} has a bypass, the plan none. It is that of a network '
                'without, or whose bypasses were merged: build it without a '
                'bypass, as the config of tools/deploy.py does'
            )
    missing = {}
    for name, entry in plan.branches.items():
        branch = _check_branch(name, module_at(model, name, name), entry)
        if branch is not None:
            missing[name] = branch
    return missing


def _part_of(plan: ChannelPlan, found: Collection[str]) -> str:
    """What to do where the network is a part of that of the plan."""
    first = next(iter(found), None)
    for name in plan.shapes if first else ():
        # backbone.conv1.weight, of a network that has conv1.weight
        start = name.removesuffix(f'.{first}')
        if start != name and all(f'{start}.{n}' in plan.shapes for n in found):
            return (
                f'. Its tensors are those below {start!r} in the plan: narrow '
                f'to plan.below({start!r}), which prefix={start!r} does in '
                'the config of a DeployedModel'
            )
    return ''


def _whole_of(plan: ChannelPlan, found: Collection[str]) -> str:
    """What to do where the network of the plan is a part, as of a wrapper."""
    first = next(iter(plan.shapes), None)
    for name in found if first else ():
        # module.conv1.weight, of a wrapper of what has conv1.weight
        start = name.removesuffix(f'.{first}')
        if start != name and all(f'{start}.{n}' in found for n in plan.shapes):
            return (
                f'. The network of the plan is its part {start!r}: narrow '
                f'that, with narrow(model.{start}, plan), and wrap it anew'
            )
    return ''


def _rest_of(plan: ChannelPlan, found: Collection[str]) -> str:
    """What to do where parts are gone that the network of the plan has."""
    missing = [name for name in plan.shapes if name not in found]
    parts = dict.fromkeys(name.partition('.')[0] for name in missing)
    known = found and all(name in plan.shapes for name in found)
    if not known or any(name.partition('.')[0] in parts for name in found):
        return ''
    gone = ' and '.join(map(repr, parts))
    return (
        f'. All that it has is in the plan, and {gone} is gone: build the '
        'network with that, as in its config, narrow or load it, and take '
        f'that off it then (model.{next(iter(parts))} = None)'
    )


def _check_masks(model: nn.Module, plan: ChannelPlan) -> None:
    """A plan must keep what the masks of a network keep.

    Before masks remove something, any plan of the network fits.
    """
    pruner = model._modules.get('pruner')
    if not isinstance(pruner, Pruner) or pruner.gate.is_meta:
        return
    mask = pruner.mask.cpu()
    if mask.all():
        return
    for name, living in pruner.by_group(mask).items():
        mine, kept = Kept.from_mask(living), plan.groups.get(name)
        if kept is not None and kept != mine:
            raise _misfit(
                f'its masks keep {mine.count} of {mine.size} in {name}, the '
                f'plan {kept.count}, or others. Narrow to the plan of its own '
                'pruner; a copy, such as an average, takes the masks of the '
                'original first, with '
                'copy.pruner.load_state_dict(original.pruner.state_dict())'
            )


def _same_shape(
    a: tuple[int, ...], b: tuple[int, ...], free: bool = False
) -> bool:
    """Whether shapes agree, or but for a free number of outputs."""
    # [classes, in, ...]: the first dimension counts the outputs.
    return a == b or (free and len(a) == len(b) > 0 and a[1:] == b[1:])


def _additions(model: nn.Module) -> list[str]:
    """Beginnings of the names of what pruning added to a dense network."""
    names = [
        f'{name}.bypass.' if name else 'bypass.'
        # A layer may have several names, and its branch has as many.
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, Bypassed)
    ]
    if isinstance(model._modules.get('pruner'), Pruner):
        names.append('pruner.')
    return names


def _check_biases(model: nn.Module, plan: ChannelPlan) -> None:
    """What gets a bias must be a convolution that has none."""
    for name in plan.biases:
        layer = module_at(model, name, name)
        if not isinstance(layer, _ConvNd) or layer.bias is not None:
            raise _misfit(f'{name} cannot get a bias: {layer}')


def _check_details(model: nn.Module, plan: ChannelPlan) -> None:
    """Asks the unit of a plan whether its details fit their layers."""
    try:
        unit = UNITS.build(plan.unit)
    except PruningError as error:
        raise _misfit(str(error)) from error
    for name, dims in plan.slices.items():
        if any(
            kept.size > 0 and kept.count < unit.floor for kept in dims.values()
        ):
            raise _misfit(
                f'of {name} it keeps nothing, and a network of '
                f'unit={plan.unit!r} does not run so'
            )
    for name, details in plan.details.items():
        layer = module_at(model, name, name)
        slices = {
            key.removeprefix(f'{name}.'): dims
            for key, dims in plan.slices.items()
            if key.rpartition('.')[0] == name
        }
        try:
            unit.check_layer(layer, details, slices)
        except PruningError as error:
            raise _misfit(f'{name}: {error}') from error


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
    value = _find(model, name)
    if value is None:
        raise _misfit(f'it has no {name}')
    return value


def _find(model: nn.Module, name: str) -> Tensor | None:
    """A parameter or buffer; None if its module has none of this name."""
    owner, _, leaf = name.rpartition('.')
    module = module_at(model, owner, name)
    value: Tensor | None = module._parameters.get(leaf)
    return module._buffers.get(leaf) if value is None else value


def _check_branch(
    name: str, layer: nn.Module, entry: BranchPlan
) -> Branch | None:
    """Returns the branch that a layer lacks; None if it has the right one."""
    kind = entry.settings.get('type')
    try:
        branch: Branch = BRANCHES.build(entry.settings, layer)
    except PruningError as error:
        raise _misfit(
            f'{name} cannot take its {kind} bypass: {error}'
        ) from error
    found: Any = layer
    sizes = found.in_channels, found.out_channels
    if sizes != (entry.inputs.size, entry.outputs.size):
        raise _misfit(
            f'{name} joins {sizes[0]} to {sizes[1]} channels, the plan '
            f'expects {entry.inputs.size} and {entry.outputs.size}'
        )
    if not isinstance(layer, Bypassed):
        return branch
    # There is one: its tensors must have the shapes of a new one.
    shapes = [_shapes(b) for b in (layer.bypass, branch)]
    if shapes[0] != shapes[1] or layer.kept is not None:
        raise _misfit(f'{name} has another bypass than {kind}')
    return None


def _shapes(branch: nn.Module | None) -> dict[str, torch.Size]:
    """Of all tensors of a branch, by name."""
    if branch is None:
        return {}
    return {name: value.shape for name, value in branch.state_dict().items()}


def module_at(model: nn.Module, owner: str, name: str) -> nn.Module:
    """A module by its qualified name, looked up in the stores alone.

    Args:
        model (nn.Module): The network.
        owner (str): The qualified name; empty for the network itself.
        name (str): What is wanted of the module, for the error text.

    Raises:
        PruningError: If the network has none of this name.
    """
    module: nn.Module | None = model
    for part in owner.split('.') if owner else ():
        module = None if module is None else module._modules.get(part)
    if module is None:
        raise _misfit(f'it has no {name}')
    return module


def _misfit(reason: str) -> PruningError:
    return PruningError(f'the plan does not fit the model: {reason}')


def _other_network(reason: str) -> PruningError:
    return _misfit(
        f'{reason}. Give the plan of this network, or build the one that the '
        'plan was made of'
    )
