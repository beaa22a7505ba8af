# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The plans of a narrow model, which travel with its weights.

Readers of checkpoints, such as the inferencers, know nothing of pruning, and
publishing drops all but the weights. A state dict is the one road that all of
them take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmlapp.core import ChannelPlan, Pruner, PruningError, narrow
from mmlapp.core.narrowing.check_plan import stored
from mmlapp.core.plan.carried import KEY, plans_entry, read_plans_entry

from .branch_names import refuse_other_branches
from .weight_names import refuse_misfits, rename_compiled

REMEDY = (
    'Give a checkpoint and a config that belong together: those of the run '
    'as mmlapp.PruningHook and tools/train.py wrote them, or those of '
    'tools/deploy.py'
)
Plans = tuple[ChannelPlan, ...]
# What a module of MMEngine has as long as ``init_weights`` runs.
INITIALISING = '_params_init_info'


def plans_of(model: nn.Module) -> Plans:
    """Returns what a model was narrowed to, first plan first.

    Args:
        model (nn.Module): Any model, not wrapped.
    """
    plans: Plans = model.__dict__.get('_pruning_plans', ())
    return plans


def plans_in(state_dict: Mapping[str, Any], prefix: str = '') -> Plans:
    """Returns what the model of a state dict was narrowed to.

    Args:
        state_dict (Mapping): Weights of any model.
        prefix (str): Of the model's names. Defaults to none.

    Raises:
        PruningError: If the entry cannot be read.
    """
    entry = state_dict.get(f'{prefix}{KEY}')
    if entry is None:
        return ()
    try:
        return read_plans_entry(entry)
    except PruningError as error:
        raise PruningError(
            f'{prefix}{KEY} in the weights is not to be read ({error}). '
            f'{REMEDY}'
        ) from error


def missing_plans(model: nn.Module, found: Plans) -> Plans:
    """Returns what a model lacks of the plans that its weights come with.

    Args:
        model (nn.Module): The model that gets the weights.
        found (tuple[ChannelPlan, ...]): The plans of the weights.

    Raises:
        PruningError: If the model was narrowed to something else.
    """
    own = plans_of(model)
    # What the weights were narrowed to beyond that is what the model lacks.
    pairs = zip(own, found, strict=False)
    if len(own) > len(found) or not all(a.same_shape(b) for a, b in pairs):
        raise PruningError(
            f'{KEY} in the weights: they are of a model that was narrowed to '
            f'another plan than this {type(model).__name__}. {REMEDY}'
        )
    return found[len(own) :]


def narrow_model(
    model: nn.Module, plan: ChannelPlan, optimizer: Optimizer | None = None
) -> nn.Module:
    """Narrows a model, whose state dict carries the plan from then on.

    Args:
        model (nn.Module): See :func:`mmlapp.core.narrow`.
        plan (ChannelPlan): What to keep.
        optimizer (Optimizer, optional): The optimizer of its parameters.
            Defaults to None.

    Returns:
        nn.Module: The same object.

    Raises:
        PruningError: If the plan does not fit or a state of the optimizer
            cannot follow.
    """
    narrow(model, plan, optimizer)
    model.__dict__['_pruning_plans'] = (*plans_of(model), plan)
    return model


def replace_plan(model: nn.Module, plan: ChannelPlan) -> None:
    """Notes what a model was narrowed to last, where that has changed.

    Args:
        model (nn.Module): A narrow model.
        plan (ChannelPlan): Its last plan as it is now.
    """
    model.__dict__['_pruning_plans'] = (*plans_of(model)[:-1], plan)


def carry_plans(
    model: nn.Module, dims: Iterable[tuple[str, Iterable[int]]]
) -> None:
    """Lets the shape of a model travel with its weights, both ways.

    Its state dict has the plans of a narrow model. Weights that come with
    plans give the model their shape before they are loaded; others must have
    its widths, whichever part of the model gets them.

    Args:
        model (nn.Module): A model that is narrow or can become it.
        dims (Iterable): Name of every parameter and buffer that pruning may
            shrink, and its dimensions where it does.
    """
    # All of these are public from torch 2.5 on.
    if not carries_plans(model):
        model._register_state_dict_hook(_write_plans)
        model._register_load_state_dict_pre_hook(_read_plans, with_module=True)
        model.register_load_state_dict_post_hook(refuse_misfits)
    for part, names in _by_module(model, dims).items():
        check = _WidthCheck(names)
        part._register_load_state_dict_pre_hook(check, with_module=True)


def rows_of(details: Iterable[str]) -> list[tuple[str, list[int]]]:
    """Returns the dimensions of weights that a unit changes by itself.

    Args:
        details (Iterable[str]): Layers that a plan has details of.
    """
    return [(f'{name}.weight', [0]) for name in details]


def carries_plans(model: nn.Module) -> bool:
    """Whether the shape of a model travels with its weights.

    Args:
        model (nn.Module): Any model, not wrapped.
    """
    return _write_plans in model._state_dict_hooks.values()


def _by_module(
    model: nn.Module, dims: Iterable[tuple[str, Iterable[int]]]
) -> dict[nn.Module, dict[str, set[int]]]:
    """Dimensions of all tensors below every module, by their names there."""
    found: dict[nn.Module, dict[str, set[int]]] = {}
    for name, chosen in dims:
        part, rest = model, name
        while True:
            own = found.setdefault(part, {}).setdefault(rest, set())
            own.update(chosen)
            # backbone.conv1.weight -> conv1.weight -> weight
            child, dot, rest = rest.partition('.')
            if not dot:
                break
            part = part.get_submodule(child)
    return found


def _write_plans(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any
) -> None:
    """Adds the plans to a state dict; a hook that can be pickled."""
    plans = plans_of(module)
    if plans:
        state_dict[f'{prefix}{KEY}'] = plans_entry(plans)


def _read_plans(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Takes the plans out of a state dict and gives a model their shape."""
    rename_compiled(state_dict)
    found = plans_in(state_dict, prefix)
    # No tensor of the model has this name: loading would report it.
    state_dict.pop(f'{prefix}{KEY}', None)
    missing = missing_plans(module, found) if found else ()
    if not missing:
        refuse_other_branches(module, state_dict, prefix)
    if missing and hasattr(module, INITIALISING):
        raise _in_init_weights(module)
    # Of several plans the last one says how wide a dimension of the weights
    # is. All are checked before the first change.
    widths = {
        (name, dim): kept.count
        for plan in missing
        for name, dims in plan.slices.items()
        for dim, kept in dims.items()
    }
    for (name, dim), width in widths.items():
        _check_width(name, dim, width, state_dict.get(f'{prefix}{name}'))
    if missing:
        with _masks_aside(module):
            for plan in missing:
                narrow_model(module, plan)


@contextmanager
def _masks_aside(model: nn.Module) -> Iterator[None]:
    """Lets a model become what its new weights are, whatever it masks now.

    A plan must keep what masks keep, for the weights that they belong to:
    those are about to go. Where the plan is refused they stay.
    """
    pruner = model._modules.get('pruner')
    if not isinstance(pruner, Pruner):
        yield
        return
    gate = pruner.gate.detach().clone()
    with torch.no_grad():
        pruner.gate.fill_(1)
        try:
            yield
        except PruningError:
            pruner.gate.copy_(gate)
            raise


def _in_init_weights(module: nn.Module) -> PruningError:
    """Of an ``init_cfg``, where no parameter may be a new one.

    MMEngine keeps count of them as long as it initialises a model, which ends
    here.
    """
    for part in module.modules():
        vars(part).pop(INITIALISING, None)
    return PruningError(
        "init_cfg=dict(type='Pretrained'): the weights are of a narrowed "
        f'model, and init_weights cannot give {type(module).__name__} new '
        'parameters. Name the checkpoint in load_from instead, or load it '
        'once the model is initialised'
    )


class _WidthCheck:
    """Refuses weights of other widths before any of them is loaded.

    Args:
        dims (Mapping[str, set[int]]): Dimensions of tensors that count, by
            the names in the module. In others a tensor may differ, as that
            of a head for other classes: MMEngine leaves it out and says so.
    """

    def __init__(self, dims: Mapping[str, set[int]]) -> None:
        self.dims = dims

    def __call__(
        self,
        module: nn.Module,
        state_dict: Mapping[str, Any],
        prefix: str,
        *_: Any,
    ) -> None:
        """Compares, as a hook that is called before loading."""
        for name, dims in self.dims.items():
            own = _stored(module, name)
            # What a conversion took away has no width; torch reports it.
            for dim in dims if own is not None else ():
                found = state_dict.get(f'{prefix}{name}')
                _check_width(f'{prefix}{name}', dim, own.shape[dim], found)


def _stored(module: nn.Module, name: str) -> Any:
    """None where a conversion took the tensor away."""
    try:
        return stored(module, name)
    except PruningError:
        return None


def _check_width(name: str, dim: int, width: int, found: Any) -> None:
    # One of another kind or rank is MMEngine's to report.
    if not isinstance(found, Tensor) or dim >= found.dim():
        return
    if found.shape[dim] != width:
        raise PruningError(
            f'the weights do not fit the model: {name} has shape '
            f'{tuple(found.shape)}, the model {width} in dimension {dim}. One '
            f'of them is narrow, and the weights carry no plan of that. '
            f'{REMEDY}'
        )
