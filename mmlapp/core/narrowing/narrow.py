# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Physical narrowing: a plan applied to a network, in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..attention.unfused import fuse_again
from ..bypass.beside import Bypassed, add_bypass
from ..bypass.branch import Branch, start_branches
from ..bypass.kernels import add_bias
from ..default_device import on_cpu
from ..derived import forget_derived
from ..heirs import Heir, Heirs, handed_on
from ..held import Place, holders_in, place_of, replace_held
from ..hiding import show_again
from ..mask.living import release
from ..mask.masked import remove_masks
from ..plan.entries import BranchPlan
from ..plan.kept import Kept
from ..plan.plan import ChannelPlan
from ..pruner import Pruner
from ..trace.attributes import recount
from ..trace.blocks.registry import adjust_attributes
from ..units import UNITS, Unit
from .check_plan import check_plan, module_at, slices_of, stored
from .follow_layers import follow_layers, widths
from .inheritance import hand_on_the_rest
from .optimizer_state import (
    check_optimizer,
    check_states,
    move_gradients,
    move_optimizer_state,
)
from .stale import remember

# Where a module keeps its hooks, and what it knows of them, by their number.
HOOK_STORES = (
    '_forward_pre_hooks',
    '_forward_pre_hooks_with_kwargs',
    '_forward_hooks',
    '_forward_hooks_with_kwargs',
    '_forward_hooks_always_called',
    '_state_dict_pre_hooks',
)
LOAD_HOOKS = '_load_state_dict_pre_hooks'


# What is made in inference mode cannot be trained.
@on_cpu()
@torch.inference_mode(False)
def narrow(
    model: nn.Module, plan: ChannelPlan, optimizer: Optimizer | None = None
) -> nn.Module:
    """Narrows a network to a plan, in place.

    A network that still has its pruner and masks loses them and gets its
    own classes back; a dense one, as a config builds it, first gets the
    branches of the plan.

    In the middle of training, gradients and the state of the optimizer, if
    it is given, are narrowed with the parameters, so that training goes on
    as it would have with masks. Parameters are new objects: a wrapper for
    distributed training must be made again.

    Args:
        model (nn.Module): The network that the plan was made for, not
            wrapped.
        plan (ChannelPlan): What to keep.
        optimizer (Optimizer, optional): The optimizer of its parameters.
            Defaults to None.

    Returns:
        nn.Module: The same object.

    Raises:
        PruningError: If the plan does not fit or a state of the optimizer
            cannot follow; everything is then as before.

    Examples:
        >>> from mmlapp.core import attach
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> pruner = attach(model, torch.rand(1, 3, 9, 9))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> pruner.begin({'flops': 0.5}, steps=1)
        >>> pruner.step()
        >>> narrow(model, pruner.plan(), optimizer)
        Sequential(
          (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
          (1): Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1))
        )
    """
    show_again(model)
    # Plan and states are checked before the first change: a refusal leaves
    # all as it was.
    if optimizer is not None:
        check_optimizer(optimizer, model)
        check_states(optimizer, _wide(model, plan))
    names = {p: name for name, p in model.named_parameters()}
    missing = check_plan(model, plan)
    pruner = model._modules.get('pruner')
    if isinstance(pruner, Pruner) and not pruner.complete:
        start_branches(model)  # it never ran
    heirs = apply_plan(model, plan, missing)
    remember(model, {p: names[p] for p in heirs if p in names})
    move_gradients(heirs)
    hand_on_the_rest(heirs)
    if optimizer is not None:
        move_optimizer_state(optimizer, heirs)
    return model


def _wide(model: nn.Module, plan: ChannelPlan) -> list[Tensor]:
    """Parameters that a plan replaces, and buffers."""
    missing = check_plan(model, plan)
    found = [stored(model, name) for name in slices_of(model, plan)]
    for name, details in plan.details.items():
        if not all(kept.whole for kept in details.values()):
            own = module_at(model, name, name)._parameters.values()
            found += [value for value in own if value is not None]
    for name in plan.branches:
        if name not in missing:
            layer: Any = model.get_submodule(name)
            found += layer.bypass.parameters()
    return found


def apply_plan(
    model: nn.Module, plan: ChannelPlan, branches: Mapping[str, Branch]
) -> Heirs:
    """Narrows a network to a plan that fits it.

    Args:
        model (nn.Module): The network.
        plan (ChannelPlan): What to keep.
        branches (Mapping[str, Branch]): Branches that it lacks.

    Returns:
        Heirs: What took the place of every replaced parameter.
    """
    detach(model)
    dense = widths(model)
    for name, branch in branches.items():
        add_bypass(model.get_submodule(name), branch)
    modules = list(model.modules())
    heirs = _slice_all(model, modules, plan)
    for name, kept in plan.attributes.items():
        owner, _, attribute = name.rpartition('.')
        recount(module_at(model, owner, name), attribute, kept.count)
    unit = UNITS.build(plan.unit)
    _adjust_all(model, modules, plan, unit)
    follow_layers(dense)
    for name in plan.biases:
        add_bias(model.get_submodule(name))
    for name, entry in plan.branches.items():
        heirs.update(_narrow_branch(model.get_submodule(name), entry))
    forget_derived(modules)
    finished: dict[nn.Parameter, Sequence[Heir]] = {}
    for name, details in plan.details.items():
        layer = model.get_submodule(name)
        finished.update(unit.narrow_layer(layer, details))
    return handed_on(heirs, finished)


def _slice_all(
    model: nn.Module, modules: Sequence[nn.Module], plan: ChannelPlan
) -> dict[nn.Parameter, Sequence[Heir]]:
    """Puts slices in the place of all tensors that a plan cuts."""
    replaced: dict[int, Tensor] = {}
    held: dict[Place, Tensor] = {}
    heirs: dict[nn.Parameter, Sequence[Heir]] = {}
    holders = holders_in(modules)
    # By identity of the old tensor, since modules may share one.
    for name, dims in slices_of(model, plan).items():
        old = stored(model, name)
        new = replaced[id(old)] = _slice(old, dims)
        if holders:
            held[place_of(old)] = new
        if isinstance(old, nn.Parameter):
            assert isinstance(new, nn.Parameter)
            heirs[old] = [Heir(new, partial(_take, dims=dims))]
    _replace(modules, replaced)
    replace_held(holders, held)
    return heirs


def _adjust_all(
    model: nn.Module,
    modules: Sequence[nn.Module],
    plan: ChannelPlan,
    unit: Unit,
) -> None:
    """Lets numbers of layers, then those of blocks, follow the tensors."""
    noted = {model.get_submodule(n): each for n, each in plan.details.items()}
    # Blocks after their layers, whose attributes they may read.
    # Parents are listed before their children; reversed, after them.
    for module in reversed(modules):
        adjust_attributes(module)
        if module in noted:
            for name, number in unit.numbers(noted[module]).items():
                setattr(module, name, number)


def detach(model: nn.Module) -> nn.Module:
    """Takes pruner and masks off a network; parameters stay as they are.

    Args:
        model (nn.Module): A network, prunable or plain.

    Returns:
        nn.Module: The same object.
    """
    for module in model.modules():
        fuse_again(module)
        release(module)
        remove_masks(module)
    pruner = model._modules.get('pruner')
    if isinstance(pruner, Pruner):
        # While torch walks through the hooks of a load none of them can go:
        # what narrows there leaves one, which does nothing any more.
        loading = () if pruner.loading else (LOAD_HOOKS,)
        for store in (*HOOK_STORES, *loading):
            for key in pruner.hook_ids:
                getattr(model, store).pop(key, None)
        pruner.taken_off = True
        del model.pruner
    return model


def _take(tensor: Tensor, dims: Mapping[int, Kept]) -> Tensor:
    """A copy of what stays, in the same memory format."""
    value = tensor.detach()
    # One dimension after the other: [out, in, ..] -> [kept out, in, ..] -> ...
    # Rows are copied whole, so that the first dimension goes first.
    for dim, kept in sorted(dims.items()):
        # Indices along one dimension hold whatever the others lost.
        value = value.index_select(dim, kept.positions(value.device))
    if tensor.dim() == 4 and tensor.is_contiguous(
        memory_format=torch.channels_last
    ):
        value = value.contiguous(memory_format=torch.channels_last)
    return value


def _slice(tensor: Tensor, dims: Mapping[int, Kept]) -> Tensor:
    value = _take(tensor, dims)
    if not isinstance(tensor, nn.Parameter):
        return value
    # An empty one gets no gradient, which DDP would wait for.
    return nn.Parameter(value, tensor.requires_grad and value.numel() > 0)


def _replace(
    modules: Iterable[nn.Module], replaced: Mapping[int, Tensor]
) -> None:
    """Puts the new tensors everywhere the old ones were shared."""
    for module in modules:
        for store in (module._parameters, module._buffers):
            for key, value in store.items():
                if value is not None and id(value) in replaced:
                    store[key] = replaced[id(value)]  # type: ignore[assignment]


def _narrow_branch(layer: nn.Module, entry: BranchPlan) -> Heirs:
    """Narrows the branch of a layer with the channels around it."""
    assert isinstance(layer, Bypassed)
    if layer.bypass is None:
        return {}
    layer.bypass, heirs = layer.bypass.narrow(
        entry.inputs.mask(), entry.outputs.mask()
    )
    return heirs
