# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a state dict says of a phase, checked before anything takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import PruningError
from ..progress import Phase, Progress
from .stability import EPOCHS, KEPT, RULE, Stability

PROGRESS = 'progress'


@dataclass(frozen=True)
class SavedPhase:
    """Where a phase stood when it was saved.

    Args:
        progress (Progress): Phase, steps and targets.
        stability (Stability, optional): Of a phase that may end early.
    """

    progress: Progress
    stability: Stability | None


def read_phase(
    state_dict: Mapping[str, Any],
    prefix: str,
    costs: Sequence[str],
    channels: int,
) -> SavedPhase | None:
    """Reads what a pruner has saved beside its buffers.

    Args:
        state_dict (Mapping): Of any network.
        prefix (str): Of the pruner's names.
        costs (Sequence[str]): All costs of the network, in order.
        channels (int): Of all groups.

    Returns:
        SavedPhase or None: None where it says nothing.

    Raises:
        PruningError: If there is something that no pruner has written, or
            one of a network with other costs.
    """
    if (gate := f'{prefix}gate') in state_dict:
        check_gate(gate, state_dict[gate], channels)
    if (name := f'{prefix}{PROGRESS}') not in state_dict:
        return None
    progress = read_progress(name, state_dict[name], costs)
    if (name := f'{prefix}{RULE}') not in state_dict:
        return SavedPhase(progress, None)
    kept = state_dict.get(f'{prefix}{KEPT}')
    stability = _stability(prefix, state_dict[name], kept, channels)
    return SavedPhase(progress, stability)


def check_gate(name: str, gate: Any, channels: int | None = None) -> None:
    """Refuses what no mask is: one channel of NaN spoils a whole network.

    Args:
        name (str): Of the tensor in its state dict.
        gate (Any): What is there; one without values passes.
        channels (int, optional): Of all groups, where the network is known.
            Defaults to None.

    Raises:
        PruningError: If it is none, or one of another network.
    """
    if isinstance(gate, Tensor) and gate.is_meta:
        return
    _check_real(name, gate)
    if gate.dim() != 1:
        raise _damaged(name, f'of shape {tuple(gate.shape)}')
    if channels not in (None, len(gate)):
        raise PruningError(
            f'{name} of the state dict has shape {tuple(gate.shape)}, the '
            f'network {channels} prunable channels: it is of another network, '
            'or of one with another scope or unit. Give attach the same'
        )
    # NaN is in no range; channels that shrink lie between.
    outside = ~((gate >= 0) & (gate <= 1))
    if outside.any():
        raise PruningError(
            f'{name} of the state dict holds {float(gate[outside][0])}: '
            'expected 1 for kept and 0 for removed channels, or what is '
            'between. The file is damaged'
        )


def read_progress(
    name: str, state: Any, costs: Sequence[str] | None = None
) -> Progress:
    """Reads phase, steps and targets.

    Args:
        name (str): Of the tensor in its state dict.
        state (Any): What :meth:`Progress.to_tensor` made.
        costs (Sequence[str], optional): All costs of the network, in order,
            where it is known; else their numbers are their names. Defaults
            to None.

    Raises:
        PruningError: If it is none, or one of a network with other costs.
    """
    _check_real(name, state)
    numbers = state.flatten().tolist()
    if len(numbers) < 3:
        raise _damaged(name, numbers)
    unnamed = [str(number) for number in range(len(numbers) - 3)]
    names = unnamed if costs is None else costs
    if len(numbers) != 3 + len(names):
        raise PruningError(
            f'{name} of the state dict has {len(numbers)} numbers, expected '
            f'three and a target for each of the costs {list(names)}: it is '
            'of a network with other costs. Give attach the same'
        )
    phase, done, steps, *targets = numbers
    # Comparisons with NaN are false.
    if (
        phase not in list(Phase)
        or not 0 <= done <= steps < float('inf')
        or not all(0 <= target <= 1 for target in targets)
    ):
        raise _damaged(name, numbers)
    return Progress.from_tensor(state.flatten(), names)


def _check_real(name: str, value: Any) -> None:
    """Refuses what has no numbers that can be compared."""
    if not isinstance(value, Tensor):
        raise _damaged(name, type(value).__name__)
    # No operator compares the small ones, such as float8.
    small = value.is_floating_point() and value.element_size() < 2
    unreal = value.is_complex() or value.is_quantized or value.is_meta
    if small or unreal:
        raise _damaged(name, f'a tensor of {value.dtype} on {value.device}')
    if value.layout is not torch.strided or value.is_nested:
        raise _damaged(name, f'a tensor of layout {value.layout}')


def _stability(prefix: str, rule: Any, kept: Any, channels: int) -> Stability:
    _check_real(f'{prefix}{RULE}', rule)
    _check_real(f'{prefix}{KEPT}', kept)
    numbers, shape = rule.flatten().tolist(), tuple(kept.shape)
    # Comparisons with NaN are false.
    if len(numbers) != 2 or not (
        1 <= numbers[0] < float('inf') and 0 < numbers[1] <= 1
    ):
        raise _damaged(f'{prefix}{RULE}', numbers)
    if shape not in [(channels, epochs) for epochs in range(EPOCHS + 2)]:
        raise _damaged(f'{prefix}{KEPT}', f'of shape {shape}')
    return Stability.from_tensors(rule.flatten(), kept)


def _damaged(name: str, found: Any) -> PruningError:
    return PruningError(
        f'{name} of the state dict is {found!s:.200}, which no pruner has '
        'written. The file is damaged'
    )
