# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The model of a pruning run at its end: with masks, and narrow."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmlapp.core import ChannelPlan, Pruner, PruningError
from mmlapp.core.progress import Progress

from ..checkpoints.reading import PREFIX, Trained
from ..checkpoints.weights import check_weights
from ..models.plans import KEY, missing_plans, narrow_model, plans_of
from ..models.shared_names import FirstNames
from .recipe import without_pretrained
from .scatter import scatter_weights


def masked_model(cfg: Config, trained: Trained) -> Any:
    """Builds the masked model of a pruning run, narrow weights or not.

    Narrow ones are put at their places among garbage, which the masks must
    hide: a twin that has nothing of how the model was narrowed.

    Args:
        cfg (Config): Config of the run.
        trained (Trained): Its checkpoint.

    Returns:
        nn.Module: The model in evaluation mode, with masks.

    Raises:
        PruningError: If the two do not belong together.
    """
    model = build_model(cfg)
    weights = trained.weights
    check_weights(model, weights)
    plan = run_plan(model, trained)
    if plan is not None:
        # Masks before weights: the plan must fit before its weights are
        # placed.
        _set_masks(model.pruner, plan)
        try:
            weights = _widened(model, weights, plan)
        except PruningError as error:
            raise _misfit([str(error)]) from error
    _load(model, weights)
    if plan is None:
        _load_masks(model.pruner, trained.state)
    return model.eval()


def _widened(
    model: nn.Module, narrow: dict[str, Tensor], plan: ChannelPlan
) -> dict[str, Tensor]:
    """Returns weights of the masked model with narrow ones at their places.

    Of a tensor with several names a plan knows one: all get the same.
    """
    first = FirstNames(model)
    wide = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(PREFIX) and name != KEY
    }
    once, placed = (
        {name: value for name, value in of.items() if first(name) == name}
        for of in (wide, narrow)
    )
    found = scatter_weights(once, placed, plan)
    # A name that the file lacks is told when the weights are loaded. Those of
    # a branch are no names of the narrow one.
    return {
        name: found[first(name)]
        for name in wide
        if first(name) in found
        and (name in narrow or first(name) not in narrow)
    }


def narrow_weights_model(cfg: Config, trained: Trained) -> Any:
    """Builds the model of a run that narrowed it, as it was at the end.

    Args:
        cfg (Config): Config of the run.
        trained (Trained): Its checkpoint.

    Returns:
        nn.Module: The narrow model in evaluation mode.
    """
    model = build_model(cfg)
    plan = run_plan(model, trained)
    assert plan is not None
    narrow_model(model, plan)
    check_weights(model, trained.weights)
    _load(model, trained.weights)
    return model.eval()


def slim_model(cfg: Config, trained: Trained, masked: Any) -> Any:
    """Returns the narrow model of a run, whether or not it was narrowed there.

    Args:
        cfg (Config): Config of the run.
        trained (Trained): Its checkpoint.
        masked (nn.Module): From :func:`masked_model`; it is narrowed in place
            where the checkpoint has masks.
    """
    if trained.masked:
        return narrow_model(masked, masked.pruner.plan())
    return narrow_weights_model(cfg, trained)


def run_plan(model: nn.Module, trained: Trained) -> ChannelPlan | None:
    """Returns the plan of a run that narrowed its model; else None.

    Args:
        model (nn.Module): The model of its config.
        trained (Trained): Its checkpoint.

    Raises:
        PruningError: If the two do not belong together.
    """
    missing = missing_plans(model, trained.plans)
    # Masked, it has all plans that it was built with; narrow, one more.
    if len(missing) == (0 if trained.masked else 1):
        return missing[0] if missing else None
    before, times = len(plans_of(model)), len(trained.plans)
    raise _misfit(
        [
            f'it was narrowed {times} times, and the model of the config '
            f'{before} times before the run'
        ]
    )


def _load(model: nn.Module, weights: dict[str, Tensor]) -> None:
    try:
        found = model.load_state_dict(weights, strict=False)
    except PruningError as error:
        raise _misfit([str(error)]) from error
    except RuntimeError as error:
        # torch: one line that something is wrong, and one for each fault.
        raise _misfit(str(error).splitlines()[1:]) from error
    missing = [k for k in found.missing_keys if not k.startswith(PREFIX)]
    if missing or found.unexpected_keys:
        raise _misfit(
            [f'{key} is missing' for key in missing]
            + [f'{key} is unknown' for key in found.unexpected_keys]
        )


def build_model(cfg: Config) -> Any:
    """Builds the model of any config, without weights to download.

    Args:
        cfg (Config): The config; not changed.

    Returns:
        nn.Module: The model, as the Runner builds it.
    """
    model = ConfigDict(without_pretrained(cfg.model.to_dict()))
    if cfg.get('data_preprocessor') is not None:
        own = copy.deepcopy(cfg.data_preprocessor)  # models add to theirs
        model.setdefault('data_preprocessor', own)
    return MODELS.build(model)


def _misfit(details: list[str]) -> PruningError:
    # Three, for a model of another kind differs in hundreds.
    shown = '; '.join(text.strip() for text in details[:3])
    more = f' and {len(details) - 3} more' if len(details) > 3 else ''
    return PruningError(
        'the checkpoint does not fit the model of the config: '
        f'{shown}{more}. Give the config that it was trained with'
    )


def _set_masks(pruner: Pruner, plan: ChannelPlan) -> None:
    """Takes the masks from a plan.

    Raises:
        PruningError: If it is of other groups.
    """
    sizes = {group.name: group.size for group in pruner.groups}
    planned = {name: kept.size for name, kept in plan.groups.items()}
    if sizes != planned:
        wrong = sorted(dict(sizes.items() ^ planned.items()))
        raise PruningError(
            'the plan in the checkpoint does not fit the model of the config:'
            f' channel groups differ, such as {wrong[0]}. Give the config '
            'that it was trained with'
        )
    # In the pruner's order of groups, not the plan's: [channels].
    mask = torch.cat([plan.groups[name].mask() for name in sizes])
    pruner.set_mask(mask, plan.targets())
    # Groups of equal names and sizes may still reach other layers.
    if not pruner.plan().same_shape(plan):
        raise PruningError(
            'the plan in the checkpoint does not fit the model of the config:'
            ' its groups reach other layers. Give the config that it was '
            'trained with'
        )


def _load_masks(pruner: Pruner, state: dict[str, Tensor]) -> None:
    gate = state['gate']
    if gate.shape != pruner.gate.shape:
        raise PruningError(
            'the masks in the checkpoint do not fit the model of the config: '
            f'{len(gate)} channels, not {len(pruner.gate)}. Give the config '
            'that it was trained with'
        )
    if not ((gate == 0) | (gate == 1)).all():
        raise PruningError(
            'the masks in the checkpoint are neither 0 nor 1: something '
            'averaged them with those of before. Give a checkpoint of '
            'mmlapp.PruningHook itself'
        )
    if len(state['progress']) != len(pruner.progress.to_tensor(pruner.costs)):
        raise PruningError(
            'the checkpoint has targets of other costs than the model of the '
            f'config, which has {", ".join(pruner.costs)}. Give the config '
            'that it was trained with'
        )
    progress = Progress.from_tensor(state['progress'], pruner.costs)
    pruner.set_mask(gate > 0, progress.target)
