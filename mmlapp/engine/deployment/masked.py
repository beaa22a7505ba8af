# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The model of a pruning run as it was: weights, with masks or narrow."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import Tensor

from mmlapp.core import Pruner, PruningError, narrow
from mmlapp.core.progress import Progress

from ..checkpoints.reading import Trained
from ..checkpoints.weights import check_weights
from .recipe import without_pretrained


def masked_model(cfg: Config, trained: Trained) -> Any:
    """Builds the model of a pruning run as it was at the end of it.

    Args:
        cfg (Config): Config of the run.
        trained (Trained): Its checkpoint.

    Returns:
        nn.Module: The model in evaluation mode: with masks, or narrow if the
        run had narrowed it.

    Raises:
        PruningError: If the two do not belong together.
    """
    model = build_model(cfg)
    if trained.narrowed:
        assert trained.plan is not None
        narrow(model, trained.plan)
    check_weights(model, trained.weights)
    try:
        found = model.load_state_dict(trained.weights, strict=False)
    except RuntimeError as error:
        raise _misfit(str(error).splitlines()[1:]) from error
    missing = [k for k in found.missing_keys if not k.startswith('pruner.')]
    if missing or found.unexpected_keys:
        raise _misfit(
            [f'{key} is missing' for key in missing]
            + [f'{key} is unknown' for key in found.unexpected_keys]
        )
    if not trained.narrowed:
        _set_masks(model.pruner, trained)
    return model.eval()


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
    shown = '; '.join(text.strip() for text in details[:3])
    more = f' and {len(details) - 3} more' if len(details) > 3 else ''
    return PruningError(
        'the checkpoint does not fit the model of the config: '
        f'{shown}{more}. Give the config that it was trained with'
    )


def _set_masks(pruner: Pruner, trained: Trained) -> None:
    """Takes the masks from the plan; averaging spoils those in the weights.

    Raises:
        PruningError: If they belong to other groups.
    """
    plan, state = trained.plan, trained.state
    if plan is None:
        _load_masks(pruner, state)
        return
    sizes = {group.name: group.size for group in pruner.groups}
    planned = {name: kept.size for name, kept in plan.groups.items()}
    if sizes != planned:
        wrong = sorted(dict(sizes.items() ^ planned.items()))
        raise PruningError(
            'the plan in the checkpoint does not fit the model of the config:'
            f' channel groups differ, such as {wrong[0]}. Give the config '
            'that it was trained with'
        )
    mask = torch.cat([plan.groups[name].mask() for name in sizes])
    targets = {
        name: cost['target']
        for name, cost in plan.costs.items()
        if 'target' in cost
    }
    pruner.set_mask(mask, targets)
    fitting = pruner.plan()
    if (fitting.slices, fitting.branches, fitting.details) != (
        plan.slices,
        plan.branches,
        plan.details,
    ):
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
    if len(state['progress']) != len(pruner.progress.to_tensor(pruner.costs)):
        raise PruningError(
            'the checkpoint has targets of other costs than the model of the '
            f'config, which has {", ".join(pruner.costs)}. Give the config '
            'that it was trained with'
        )
    progress = Progress.from_tensor(state['progress'], pruner.costs)
    pruner.set_mask(gate > 0, progress.target)
