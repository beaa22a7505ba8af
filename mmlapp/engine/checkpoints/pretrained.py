# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Narrow weights in the ``init_cfg`` of a model or of a part of it.

MMEngine would leave out what has other dimensions, say so in the log, and
train a mostly random part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.model.weight_init import PretrainedInit
from torch import Tensor, nn

from mmlapp.core import PruningError

from ..models.plans import plans_in, rows_of
from ..models.weight_names import weights_of
from .reading import load_checkpoint

KINDS = 'Pretrained', PretrainedInit


def check_pretrained(model: nn.Module) -> None:
    """Refuses narrow weights for a part that is not narrow.

    Files that are not local, or not there, are left to MMEngine.

    Args:
        model (nn.Module): The model, before its weights are initialised.

    Raises:
        PruningError: With the setting, the first weight that does not fit,
            and what works.
    """
    for module in model.modules():
        for setting in _settings(module):
            _check(module, setting)


def pretrained_parts(model: nn.Module) -> list[nn.Module]:
    """Returns the modules that get weights from a file.

    Args:
        model (nn.Module): The model, before its weights are initialised.
    """
    return [module for module in model.modules() if any(_named(module))]


def _named(module: nn.Module) -> Iterator[Mapping[str, Any]]:
    """Those of the settings of a module that name a file."""
    found = getattr(module, 'init_cfg', None) or ()
    for each in [found] if isinstance(found, Mapping) else found:
        if each.get('type') in KINDS and 'checkpoint' in each:
            yield each


def _settings(module: nn.Module) -> Iterator[Mapping[str, Any]]:
    """Those that name a local one."""
    for each in _named(module):
        if Path(each['checkpoint']).expanduser().is_file():
            yield each


def _check(module: nn.Module, setting: Mapping[str, Any]) -> None:
    path = Path(setting['checkpoint']).expanduser()
    data = load_checkpoint(path, legacy=True)
    # Weights alone, or a checkpoint around them.
    weights = weights_of(data)
    plans = plans_in(weights)
    own = module.state_dict() if plans else {}
    # MMEngine adds the dot that is missing.
    part = setting.get('prefix') or ''
    prefix = f'{part.rstrip(".")}.' if part else ''
    _check_prefix(prefix, weights, setting)
    for plan in plans:
        for name, dims in [*plan.slices.items(), *rows_of(plan.details)]:
            # Of the whole network's names those below the prefix are the
            # part's.
            mine = own.get(name.removeprefix(prefix))
            if name.startswith(prefix) and isinstance(mine, Tensor):
                _compare(name, mine, weights.get(name), dims, setting, module)


def _check_prefix(
    prefix: str, weights: Mapping[str, Any], setting: Mapping[str, Any]
) -> None:
    """Refuses a beginning that no name has."""
    if any(name.startswith(prefix) for name in weights):
        return
    roots = dict.fromkeys(f'{name.partition(".")[0]}.' for name in weights)
    raise PruningError(
        f'init_cfg=dict({_said(setting)}): no name of a weight begins with '
        f'{prefix!r}. Those of the file begin with {", ".join(roots)}'
    )


def _said(setting: Mapping[str, Any]) -> str:
    return ', '.join(f'{k}={v!r}' for k, v in setting.items())


def _compare(
    name: str,
    mine: Tensor,
    found: Any,
    dims: Iterable[int],
    setting: Mapping[str, Any],
    module: nn.Module,
) -> None:
    """Looks at what pruning changes; a head for other classes may differ."""
    rank = mine.dim()
    if not isinstance(found, Tensor) or rank != found.dim():
        return
    if all(mine.shape[dim] == found.shape[dim] for dim in dims if dim < rank):
        return
    raise PruningError(
        f'init_cfg=dict({_said(setting)}): the weights are of a narrowed '
        f'model, this {type(module).__name__} is not: {name} has shape '
        f'{tuple(found.shape)}, in the model {tuple(mine.shape)}. Build it '
        "narrow, of type='mmlapp.DeployedModel' with the plan that "
        'tools/deploy.py wrote (and the same prefix); to train a whole '
        'narrow model on, name its checkpoint in load_from instead'
    )
