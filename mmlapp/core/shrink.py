# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Physical narrowing: a plan applied to a network, in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .bypass import add_bypass
from .fit import check_fit, stored
from .masks import remove_masks
from .partial import narrow_bypass
from .plan import BypassPlan, ChannelPlan, Kept


def shrink(model: nn.Module, plan: ChannelPlan) -> nn.Module:
    """Narrows a network to a plan, in place.

    A network that still has its thresholds and masks loses them and gets its
    own classes back; a dense one, as a config builds it, first gets the
    bypasses of the plan.

    Args:
        model (nn.Module): The network that the plan was made for.
        plan (ChannelPlan): What to keep.

    Returns:
        nn.Module: The same object.

    Raises:
        PruningError: If the plan does not fit; the network is then as before.
    """
    bypasses = check_fit(model, plan)
    detach(model)
    for name, bypass in bypasses.items():
        add_bypass(model.get_submodule(name), bypass)
    replaced = {
        id(stored(model, name)): _slice(stored(model, name), dims)
        for name, dims in plan.slices.items()
    }
    touched = _replace(model, replaced)
    for name, kept in plan.attributes.items():
        owner, _, attribute = name.rpartition('.')
        setattr(model.get_submodule(owner), attribute, len(kept.index))
    for module in touched:
        _sync(module)
    for name, entry in plan.bypasses.items():
        _narrow(model.get_submodule(name), entry)
    return model


def detach(model: nn.Module) -> nn.Module:
    """Takes thresholds and masks off a network; parameters stay as they are.

    Args:
        model (nn.Module): A network, prunable or plain.

    Returns:
        nn.Module: The same object.
    """
    for module in model.modules():
        remove_masks(module)
    if 'lapp' in model._modules:
        del model.lapp
    package = __name__.partition('.')[0] + '.'
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key, hook in list(hooks.items()):
            if getattr(hook, '__module__', '').startswith(package):
                del hooks[key]
                model._forward_hooks_with_kwargs.pop(key, None)
    return model


def _slice(tensor: Tensor, dims: Mapping[int, Kept]) -> Tensor:
    value = tensor.detach()
    for dim, kept in dims.items():
        index = torch.tensor(
            kept.index, dtype=torch.int64, device=value.device
        )
        value = value.index_select(dim, index)
    if tensor.dim() == 4 and tensor.is_contiguous(
        memory_format=torch.channels_last
    ):
        value = value.contiguous(memory_format=torch.channels_last)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value, tensor.requires_grad)
    return value


def _replace(
    model: nn.Module, replaced: Mapping[int, Tensor]
) -> list[nn.Module]:
    """Puts the new tensors everywhere the old ones were shared."""
    touched = []
    for module in model.modules():
        hit = False
        for store in (module._parameters, module._buffers):
            for key, value in store.items():
                if value is not None and id(value) in replaced:
                    store[key] = replaced[id(value)]  # type: ignore[assignment]
                    hit = True
        if hit:
            touched.append(module)
    return touched


def _sync_conv(module: nn.Module) -> None:
    """Channel counts of a convolution follow its weight and groups."""
    assert isinstance(module, _ConvNd)
    first, second = module.weight.shape[:2]
    transposed = isinstance(module, _ConvTransposeNd)
    outer, inner = first, second * module.groups
    module.out_channels = inner if transposed else outer
    module.in_channels = outer if transposed else inner


def _sync_linear(module: nn.Module) -> None:
    assert isinstance(module, nn.Linear)
    module.out_features, module.in_features = module.weight.shape


def _sync_norm(module: nn.Module) -> None:
    assert isinstance(module, _NormBase)
    tensor = module.weight if module.affine else module.running_mean
    assert tensor is not None
    module.num_features = len(tensor)


_SYNC: list[tuple[type[nn.Module], Callable[[nn.Module], None]]] = [
    (_ConvNd, _sync_conv),
    (nn.Linear, _sync_linear),
    (_NormBase, _sync_norm),
]


def _sync(module: nn.Module) -> None:
    """Makes a module's attributes follow its narrowed tensors."""
    for kind, rule in _SYNC:
        if isinstance(module, kind):
            rule(module)


def _narrow(conv: nn.Module, entry: BypassPlan) -> None:
    if entry.placement == 'narrow':
        narrow_bypass(conv, entry.inputs.mask(), entry.outputs.mask())
    elif len(entry.outputs.index) < entry.outputs.size:
        device = conv._parameters['weight'].device  # type: ignore[union-attr]
        conv.kept = torch.tensor(
            entry.outputs.index, dtype=torch.int64, device=device
        )
