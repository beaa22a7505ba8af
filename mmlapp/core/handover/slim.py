# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A slim network as one file, from which a dense one is made slim again."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor, nn

from ..errors import PruningError, misfits
from ..files import replace_file
from ..narrowing.narrow import narrow
from ..plan.carried import (
    KEY,
    from_entry,
    plans_entry,
    read_plans_entry,
    to_entry,
)
from ..plan.plan import ChannelPlan
from ..pruner import Pruner
from .fuse import Fold, fold

# The entry of a state dict that names folded norms.
FOLDS = 'pruning_folds'
REMEDY = 'Give a file and a network that belong together'
Source = str | Path | Mapping[str, Any]


def slim_state(
    model: nn.Module,
    plans: Sequence[ChannelPlan] = (),
    folds: Sequence[Fold] = (),
) -> dict[str, Tensor]:
    """Returns the state dict of a slim network, with what it was narrowed to.

    Args:
        model (nn.Module): The network, without masks.
        plans (Sequence[ChannelPlan]): What it was narrowed to, in order.
            Defaults to none: a dense network.
        folds (Sequence[tuple[str, str]]): What :func:`fuse` folded. Defaults
            to none.

    Returns:
        dict[str, Tensor]: Contiguous tensors of their own on the CPU, the
        plans as ``pruning_plans`` and the folds as ``pruning_folds``.

    Raises:
        PruningError: If the network has masks, or is not what the last plan
            makes of it.
    """
    if isinstance(model._modules.get('pruner'), Pruner):
        raise PruningError(
            'the network has masks: narrow(model, model.pruner.plan()) first'
        )
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
    }
    gone = tuple(f'{norm}.' for _, norm in folds)
    for name, dims in plans[-1].slices.items() if plans else ():
        shape = state[name].shape if name in state else None
        for dim, kept in dims.items():
            if name.startswith(gone) or (shape and shape[dim] == kept.count):
                continue
            raise PruningError(
                f'the plan is not that of the network: it keeps {kept.count} '
                f'in dimension {dim} of {name}, whose shape is '
                f'{None if shape is None else tuple(shape)}. Give the plan '
                'that it was narrowed to'
            )
    if plans:
        state[KEY] = plans_entry(plans)
    if folds:
        state[FOLDS] = to_entry([list(pair) for pair in folds])
    return state


def slim_bytes(
    model: nn.Module,
    plans: Sequence[ChannelPlan] = (),
    folds: Sequence[Fold] = (),
) -> bytes:
    """Returns the content of a file of :func:`save_slim`.

    Args:
        model (nn.Module): As there, and so are the others.
        plans (Sequence[ChannelPlan]): What it was narrowed to. Defaults to
            none.
        folds (Sequence[tuple[str, str]]): What :func:`fuse` folded. Defaults
            to none.
    """
    # In memory: torch tells of a full disk in words of its own.
    file = io.BytesIO()
    torch.save({'state_dict': slim_state(model, plans, folds)}, file)
    return file.getvalue()


def save_slim(
    model: nn.Module,
    path: str | Path,
    plans: ChannelPlan | Sequence[ChannelPlan] = (),
    folds: Sequence[Fold] = (),
) -> None:
    """Writes a slim network in one file, under a temporary name first.

    Args:
        model (nn.Module): The network, without masks.
        path (str or Path): The file, such as ``slim.pth``.
        plans (ChannelPlan or Sequence[ChannelPlan]): What it was narrowed
            to; several of one that was pruned again. Defaults to none.
        folds (Sequence[tuple[str, str]]): What :func:`fuse` folded. Defaults
            to none.

    Raises:
        PruningError: If the plan is not that of the network, or the file
            cannot be written.
    """
    plans = [plans] if isinstance(plans, ChannelPlan) else plans
    content = slim_bytes(model, plans, folds)
    try:
        replace_file(path, lambda own: own.write_bytes(content))
    except OSError as error:
        raise PruningError(
            f'path={str(path)!r} could not be written ({error.strerror}). '
            'Nothing was left; make room, or choose another folder'
        ) from error


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
        >>> from mmlapp.core import attach
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
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
        # Never without weights_only: a pickle may hold code.
        data = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a forged pickle may raise anything
        raise PruningError(
            f'{said} cannot be read: it is truncated, damaged, or holds '
            'objects other than tensors, which could run code '
            f'({type(error).__name__}). Copy or write it again'
        ) from error
    if damaged is not None:
        raise PruningError(
            f'{said} is damaged in its record {damaged}; copy it again'
        )
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
