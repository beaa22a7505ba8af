# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""From a file and a dense network to the slim one that the file is of."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..default_device import on_cpu
from ..errors import PruningError, misfits
from ..narrowing.narrow import narrow
from ..plan.carried import KEY, from_entry, read_plans_entry
from ..plan.plan import ChannelPlan
from .archive import find_damage
from .fuse import Fold, fold
from .slim import FOLDS

REMEDY = 'Give a file and a network that belong together'
# An entry that every network with masks has, see Pruner.
GATE = 'pruner.gate'
Source = str | Path | Mapping[str, Any]


@on_cpu()
def load_slim(
    dense: nn.Module,
    source: Source,
    plan: ChannelPlan | Sequence[ChannelPlan] | None = None,
    prefix: str = '',
) -> nn.Module:
    """Makes a dense network the slim one of a file.

    Args:
        dense (nn.Module): The network before pruning, with any weights, or
            the part of it that ``prefix`` names; not changed.
        source (str, Path or Mapping): A file of :func:`save_slim` or
            ``tools/deploy.py``, or a state dict, such as
            ``safetensors.torch.load_file`` returns.
        plan (ChannelPlan or Sequence[ChannelPlan], optional): What the
            network was narrowed to, for a state dict that does not say it.
            Defaults to None.
        prefix (str): Name of a part, such as ``backbone``: the pruned
            backbone of a classifier becomes that of a detector. Defaults to
            none, the whole network.

    Returns:
        nn.Module: The slim network, in evaluation mode.

    Raises:
        PruningError: If the file cannot be read, or network, weights and
            plan do not belong together.

    Examples:
        >>> import tempfile
        >>> from mmlapp.core import attach, save_slim
        >>> def build():
        ...     return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> model = build()
        >>> pruner = attach(model, torch.rand(1, 3, 9, 9))
        >>> pruner.begin({'flops': 0.5}, steps=1)
        >>> pruner.step()
        >>> plan = pruner.plan()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_slim(narrow(model, plan), f'{folder}/slim.pth', plan)
        ...     load_slim(build(), f'{folder}/slim.pth')
        Sequential(
          (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
          (1): Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1))
        )
    """
    state = _checked(source if isinstance(source, Mapping) else _read(source))
    plans = _plans(state, plan)
    folds = _folds(state)
    weights = {k: v for k, v in state.items() if k not in (KEY, FOLDS)}
    if prefix:
        plans = [each.below(prefix) for each in plans]
        folds = [*_below(folds, prefix)]
        weights = _part(weights, prefix)
    # A copy, so that a failure leaves nothing half narrowed.
    model = copy.deepcopy(dense)
    model.eval()
    # Narrow, then folded, as it was made; weights last, into shapes that are
    # theirs.
    for each in plans:
        narrow(model, each)
    fold(model, folds)
    _load(model, weights)
    return model


def _read(path: str | Path) -> Mapping[str, Any]:
    """Reads tensors of a file, and nothing that could run code."""
    said, path = f'path={str(path)!r}', Path(path)
    if not path.is_file():
        raise PruningError(f'{said}: there is no such file')
    if path.suffix == '.safetensors':
        raise PruningError(
            f'{said}: give safetensors.torch.load_file(path) instead'
        )
    # torch.load compares no checksums, and takes the memory that it is asked
    # for.
    damage = find_damage(path)
    if damage is not None:
        raise PruningError(
            f'{said} cannot be read: it is truncated or damaged ({damage}). '
            'Copy it again, or write it with save_slim'
        )
    try:
        # Never without weights_only: a pickle may hold code.
        data = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a forged pickle may raise anything
        raise PruningError(
            f'{said} cannot be read: it is damaged, or holds objects other '
            'than tensors, which could run code '
            f'({type(error).__name__}). Copy or write it again; of a '
            'checkpoint of training tools/deploy.py makes one without'
        ) from error
    found = data.get('state_dict', data) if isinstance(data, dict) else data
    if not isinstance(found, Mapping):
        raise PruningError(
            f'{said} holds a {type(found).__name__}, expected a state dict'
        )
    return found


def _checked(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise PruningError(
                f'the state dict has {name!r:.80} of type '
                f'{type(value).__name__}: expected tensors by name'
            )
        # Of a part, too, whose own entries do not tell.
        if name == GATE or name.endswith(f'.{GATE}'):
            raise PruningError(
                f'the state dict has masks ({name}), and its weights are not '
                'those that the network computed with: narrow(model, '
                'model.pruner.plan()) and save_slim first, or tools/deploy.py'
            )
    return state


def _plans(
    state: Mapping[str, Tensor],
    plan: ChannelPlan | Sequence[ChannelPlan] | None,
) -> list[ChannelPlan]:
    """Those of the weights, or those that were given for them."""
    given = [plan] if isinstance(plan, ChannelPlan) else [*(plan or ())]
    if KEY not in state:
        return given
    try:
        found = [*read_plans_entry(state[KEY])]
    except PruningError as error:
        raise PruningError(
            f'{KEY} in the weights is not to be read ({error}); copy or '
            'write the file again'
        ) from error
    pairs = zip(given, found, strict=False)
    if given and (
        len(given) != len(found) or not all(a.same_shape(b) for a, b in pairs)
    ):
        raise PruningError(
            'the plan is not that of the weights, which bring their own; '
            'leave it out'
        )
    return found


def _folds(state: Mapping[str, Tensor]) -> list[Fold]:
    if FOLDS not in state:
        return []
    found = from_entry(state[FOLDS])
    try:
        return [(str(conv), str(norm)) for conv, norm in found]
    except (TypeError, ValueError) as error:
        raise PruningError(
            f'{FOLDS} in the weights is not to be read; copy or write the '
            'file again'
        ) from error


def _below(folds: Sequence[Fold], prefix: str) -> Iterator[Fold]:
    start = f'{prefix.rstrip(".")}.'
    for pair in folds:
        # Convolution and norm: both in the part, or both outside of it.
        inside = [name.startswith(start) for name in pair]
        if any(inside) and not all(inside):
            raise PruningError(
                f'prefix={prefix!r}: {pair[1]} was folded into {pair[0]}, and '
                'one of them lies elsewhere. Take a part with both, or a '
                'network that was not fused'
            )
        if all(inside):
            yield pair[0].removeprefix(start), pair[1].removeprefix(start)


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f'{prefix.rstrip(".")}.'
    found = {
        name.removeprefix(start): value
        for name, value in weights.items()
        if name.startswith(start)
    }
    if not found:
        parts = sorted({name.partition('.')[0] for name in weights})
        raise PruningError(
            f'prefix={prefix!r}: the weights have no such part; there are '
            f'{", ".join(parts)}'
        )
    return found


def _load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads every weight, in the precision of the network alone."""
    own = model.state_dict()
    for name, value in weights.items():
        if name in own and own[name].dtype != value.dtype:
            raise PruningError(
                f'the weights have {name} in {value.dtype}, the network in '
                f'{own[name].dtype}. {REMEDY}'
            )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise PruningError(
            f'the weights do not fit the network: {misfits(error)}. {REMEDY}'
        ) from error
