# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What weights from a file must be before a model takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmlapp.core import PruningError
from mmlapp.core.errors import misfits
from mmlapp.core.plan.carried import tensor_fault

from ..models.shared_names import first_names


def check_state_dict(entries: Any, where: str) -> None:
    """Refuses what is no state dict: names, and a whole tensor for each.

    Args:
        entries (Any): What a file held.
        where (str): Where it was, for error texts.

    Raises:
        PruningError: With the first entry that is no such tensor.
    """
    if not isinstance(entries, Mapping):
        raise PruningError(
            f'{where} is a {type(entries).__name__}: expected tensors by name'
        )
    for name, value in entries.items():
        if not isinstance(name, str):
            raise PruningError(
                f'{where} has an entry named {name!r:.80}: expected a text'
            )
        fault = tensor_fault(value)
        if fault is not None:
            raise PruningError(
                f'{where}: {name} is {fault}, expected a dense tensor. Save '
                'it again with torch.save'
            )


def check_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Refuses weights that a model would round, or that are not finite.

    Buffers may be infinite where those of the new model are, such as masks
    of attention. Names and shapes are compared where the weights are loaded.

    Args:
        model (nn.Module): The model as its config builds it, not changed.
        weights (Mapping[str, Tensor]): By name.

    Raises:
        PruningError: With the first entry that does not fit.
    """
    # The very objects, by which shared ones are found.
    own = model.state_dict(keep_vars=True)
    _check_shared(own, weights)
    for name, value in weights.items():
        mine = own.get(name)
        if mine is None:
            continue
        if value.dtype != mine.dtype:
            raise PruningError(
                f'the checkpoint has {name} in {value.dtype}, the model of '
                f'the config in {mine.dtype}. Give the checkpoint as the run '
                'wrote it'
            )
        if not value.isfinite().all() and not _may_be(value, mine):
            raise PruningError(
                f'the checkpoint has values in {name} that are not finite: '
                'training had diverged. Give an earlier checkpoint'
            )


def _check_shared(
    own: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Two names of one tensor must have one value: the last would win."""
    for name, other in first_names(own).items():
        if other == name or name not in weights or other not in weights:
            continue
        a, b = weights[other], weights[name]
        if not _equal(a, b):
            raise PruningError(
                f'the checkpoint has different values in {other} and {name}, '
                'which are one tensor of the model. Give the checkpoint as '
                'the run wrote it'
            )


def _equal(a: Tensor, b: Tensor) -> bool:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    # NaN, which equals nothing, is refused by its own name.
    return torch.equal(a.nan_to_num(), b.nan_to_num())


def load_weights(model: nn.Module, entries: Any, where: str) -> None:
    """Loads every weight of a new model, once all were checked.

    Args:
        model (nn.Module): The model as its config builds it.
        entries (Any): What a file held as its state dict.
        where (str): Where it was, for error texts.

    Raises:
        PruningError: If an entry is no tensor, does not fit or is not
            finite, or if one is missing or unknown.
    """
    check_state_dict(entries, where)
    check_weights(model, entries)
    try:
        model.load_state_dict(entries)
    except RuntimeError as error:
        raise PruningError(
            f'{where} does not fit the model of the config: {misfits(error)}'
        ) from error


def _may_be(value: Tensor, mine: Tensor) -> bool:
    """Whether a tensor is infinite only where that of the new model is."""
    if value.shape != mine.shape:
        return False
    # NaN equals nothing, so that it may be nowhere.
    here = value.isfinite() | (value == mine.to(value.device))
    return bool(here.all())
