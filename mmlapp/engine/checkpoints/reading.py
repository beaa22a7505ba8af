# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of pruning runs, read without running code from the file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from packaging.version import Version
from torch import Tensor

from mmlapp.core import PruningError
from mmlapp.core.handover.archive import (
    describe,
    find_damage,
    is_archive,
    is_legacy,
)
from mmlapp.core.handover.pickled import legacy_asks_for_memory
from mmlapp.core.progress import Phase
from mmlapp.core.pruner.saved import PROGRESS, check_gate, read_progress

from ..models.plans import KEY, Plans, plans_in
from ..models.weight_names import rename_compiled, weights_of
from .weights import check_state_dict

TORCH = Version(torch.__version__)
# Older ones cannot be told what else is harmless.
TELLS = Version('2.6')
# NumPy 1 calls it otherwise.
CORE: Any = getattr(np, '_core', None) or np.core
PREFIX = 'pruner.'
PHASES = 'not begun', 'not finished'


@dataclass(frozen=True)
class Trained:
    """What a deployment needs of a checkpoint.

    Args:
        weights (dict[str, Tensor]): Parameters and buffers of the network
            and its bypasses; the averaged ones if the run averaged them.
        state (dict[str, Tensor]): Gate and state of the method, by their
            names in the child ``pruner``.
        plans (tuple[ChannelPlan, ...]): What the network was narrowed to.
        meta (dict): Such as ``dataset_meta``.
        averaged (bool): Whether the weights are averages (EMA).
    """

    weights: dict[str, Tensor]
    state: dict[str, Tensor]
    plans: Plans
    meta: dict[str, Any]
    averaged: bool

    @property
    def masked(self) -> bool:
        """Whether the network has masks, at the end of the phase still."""
        return 'gate' in self.state


def read_trained(path: str | Path) -> Trained:
    """Reads a checkpoint of a pruning run.

    Args:
        path (str or Path): The file.

    Returns:
        Trained: Everything but optimizer, schedule and history.

    Raises:
        PruningError: If the file cannot be read, belongs to another kind of
            run, or was written before the pruning phase ended.
    """
    data = load_checkpoint(path)
    tensors = data.get('state_dict')
    if tensors is None:
        raise PruningError(
            f'checkpoint={str(path)!r} has no state_dict: give a checkpoint '
            'that tools/train.py wrote'
        )
    check_state_dict(tensors, f'state_dict of checkpoint={str(path)!r}')
    meta = _meta(data, path)
    # By the names of the bare model, as MMEngine would load them.
    tensors = weights_of(data)
    weights, state = _split(tensors)
    try:
        plans = plans_in(tensors)
        # A network that is pruned again has masks and a plan of before.
        if state or not plans:
            _check_phase(state)
    except PruningError as error:
        raise PruningError(f'checkpoint={str(path)!r}: {error}') from error
    # EMAHook puts the averages into `state_dict`.
    averaged = 'ema_state_dict' in data
    return Trained(weights, state, plans, meta, averaged)


def _split(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns what belongs to the network, and what to its pruner."""
    weights, state = {}, {}
    for name, value in tensors.items():
        if name.startswith(PREFIX):
            state[name.removeprefix(PREFIX)] = value
        elif name != KEY:
            weights[name] = value
    return weights, state


def _meta(data: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """What a run says of itself; nothing if it says nothing."""
    meta = data.get('meta') or {}
    if not isinstance(meta, Mapping):
        raise PruningError(
            f'checkpoint={str(path)!r}: its meta is a '
            f'{type(meta).__name__}, expected entries by name'
        )
    return dict(meta)


def load_checkpoint(
    path: str | Path, map_location: Any = 'cpu', legacy: bool = False
) -> dict[str, Any]:
    """Loads a file of MMEngine's.

    Only tensors, numbers, texts, their containers, NumPy arrays and
    MMEngine's history of scalars are read; anything else is refused. The
    checksums of the file are compared before, so that damage is found.

    Args:
        path (str or Path): The file.
        map_location (Any): Where tensors go, see :func:`torch.load`.
            Defaults to the CPU.
        legacy (bool): Whether to read the format of torch before 1.6 too,
            which has no checksums. Defaults to False.

    Returns:
        dict: The checkpoint.

    Raises:
        PruningError: If the file is missing, damaged or holds other objects;
            before torch 2.6 MMEngine's history is one of those.
    """
    name = f'checkpoint={str(path)!r}'
    _check_file(path, name, legacy)
    try:
        data = _load(path, map_location)
    except pickle.UnpicklingError as error:
        text = str(error)
        # An unknown operand is of no pickle that torch wrote.
        if 'nsupported' not in text or 'nsupported operand' in text:
            raise _damaged(name, _short(error)) from error
        raise _refused(name, path) from error
    except Exception as error:
        # A forged pickle may raise anything.
        raise _damaged(name, _short(error)) from error
    if not isinstance(data, dict):
        raise PruningError(
            f'{name} is no checkpoint of MMEngine, but a '
            f'{type(data).__name__}: give one that tools/train.py wrote'
        )
    rename_compiled(data.get('state_dict', data))
    return data


def _check_file(path: str | Path, name: str, legacy: bool) -> None:
    """Refuses what is no whole archive of ``torch.save``."""
    if Path(path).is_dir():
        raise PruningError(f'{name} is a folder: give a file in it')
    if not Path(path).is_file():
        raise PruningError(f'{name}: there is no such file')
    if is_legacy(path) and not legacy:
        raise PruningError(
            f'{name} is in the format of torch before 1.6, which has no '
            'checksums. Write it anew: torch.save(torch.load(path, '
            'weights_only=True), path)'
        )
    damage = _find_damage(path)
    if damage is not None:
        raise _damaged(name, damage)


def _find_damage(path: str | Path) -> str | None:
    if is_legacy(path):
        return legacy_asks_for_memory(path)
    return find_damage(path) if is_archive(path) else describe(path)


def _load(path: str | Path, map_location: Any) -> Any:
    if TORCH < TELLS:
        return torch.load(path, map_location, weights_only=True)
    with torch.serialization.safe_globals(_safe_globals()):
        return torch.load(path, map_location, weights_only=True)


def _safe_globals() -> list[Any]:
    """What MMEngine puts into checkpoints besides tensors."""
    # A class for each kind of number that an array may hold.
    kinds = {type(np.dtype(code)) for code in '?bBhHiIlLqQefdgFDUSO'}
    functions = [
        (function, f'numpy.{module}.{name}')
        for name, function in (
            ('_reconstruct', _empty_array),
            ('scalar', _scalar),
        )
        # NumPy 2 and 1 write other names for the same.
        for module in ('_core.multiarray', 'core.multiarray')
    ]
    # The history pickles its methods as getattr(HistoryBuffer, name).
    method = (_history_method, 'builtins.getattr')
    return [HistoryBuffer, method, np.ndarray, np.dtype, *functions, *kinds]


def _empty_array(kind: Any, shape: Any, code: Any) -> Any:
    """Takes no memory for a shape from the file; the values bring theirs."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f'Unsupported array: {kind}')
    return np.ndarray(0, 'b')


def _scalar(kind: Any, value: Any) -> Any:
    """Without a value NumPy would make one of any size."""
    return CORE.multiarray.scalar(kind, value)


def _history_method(owner: Any, name: str) -> Any:
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'Unsupported getattr: {owner}.{name}')
    return getattr(owner, name)


def _refused(name: str, path: str | Path) -> PruningError:
    start = (
        f'{name} holds objects that are not read, since reading them could '
        'run code'
    )
    if TORCH < TELLS:
        return PruningError(
            f'{start}: torch {TORCH} reads tensors, numbers and texts alone. '
            f'The checkpoints of MMEngine need torch>={TELLS}'
        )
    return PruningError(
        f'{start}: {_unsafe(path)}. Save it again with tensors, numbers and '
        'texts alone'
    )


def _unsafe(path: str | Path) -> str:
    known = {f'{f.__module__}.{f.__qualname__}' for f in (HistoryBuffer,)}
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of the format before 1.6 it tells nothing
        return 'objects of other kinds'
    others = [
        name
        for name in found
        if name not in known
        and name != 'builtins.getattr'
        and not name.startswith('numpy.')
    ]
    return ', '.join(sorted(others)) or 'attributes of other objects'


def _short(error: Exception) -> str:
    first = str(error).partition('\n')[0]
    return f'{type(error).__name__}: {first}'


def _damaged(name: str, reason: str) -> PruningError:
    return PruningError(
        f'{name} cannot be read: it is truncated, damaged or no checkpoint '
        f'({reason}). Copy it again, or give another one'
    )


def _check_phase(state: Mapping[str, Tensor]) -> None:
    """Without a plan the masks must tell that the phase is over."""
    if PROGRESS not in state or 'gate' not in state:
        raise PruningError(
            'it has neither a channel plan nor masks: it is of a model that '
            'was not pruned. Give a checkpoint of a run with '
            'mmlapp.PruningHook'
        )
    check_gate(f'{PREFIX}gate', state['gate'])
    progress = read_progress(f'{PREFIX}{PROGRESS}', state[PROGRESS])
    if progress.phase < Phase.FINISHED:
        raise PruningError(
            f'its pruning phase has {PHASES[progress.phase]} (step '
            f'{progress.done} of {progress.steps}). Give a later checkpoint '
            'of the run'
        )
