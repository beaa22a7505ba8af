# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Plans as an entry of a state dict, which every reader passes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import PruningError
from .plan import ChannelPlan
from .reading import parse_json

# The entry: the JSON of all plans as bytes, uint8 [length].
KEY = 'pruning_plans'


def to_entry(data: Any) -> Tensor:
    """Writes plain data as a tensor.

    Args:
        data (Any): What JSON can hold.

    Returns:
        Tensor: Its bytes, uint8 ``[length]``.
    """
    # A bytearray, for a tensor of bytes that cannot be written warns.
    return torch.frombuffer(
        bytearray(json.dumps(data).encode()), dtype=torch.uint8
    )


def from_entry(entry: Any) -> Any:
    """Reads what :func:`to_entry` wrote.

    Args:
        entry (Any): What stands there.

    Raises:
        PruningError: If it cannot be read.
    """
    fault = tensor_fault(entry)
    if fault is not None:
        raise PruningError(f'it is {fault}, expected text as bytes')
    try:
        # Who halves all weights halves it, too: float16 holds every byte.
        text = bytes(entry.to(torch.uint8).tolist()).decode()
    except (TypeError, ValueError) as error:
        raise PruningError(f'it is no text as bytes ({error})') from error
    return parse_json(text)


def tensor_fault(value: Any) -> str | None:
    """Tells what a value of a file is, unless it is a dense, whole tensor.

    Args:
        value (Any): What a state dict has.

    Returns:
        str or None: None if its storage holds each of its elements.

    Examples:
        >>> tensor_fault(torch.zeros(2)), tensor_fault(1)
        (None, 'of type int')
    """
    if not isinstance(value, Tensor):
        return f'of type {type(value).__name__}'
    if value.layout is not torch.strided or value.is_quantized:
        return 'a sparse or quantized tensor'
    if value.device.type == 'meta':
        return 'a tensor without values'
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        # An expanded tensor may be of any size, whatever that of the file.
        return f'{tuple(value.shape)} elements of a smaller storage'
    return None


def plans_entry(plans: Sequence[ChannelPlan]) -> Tensor:
    """Writes plans as an entry of a state dict.

    Args:
        plans (Sequence[ChannelPlan]): What a network was narrowed to, in
            order.
    """
    return to_entry([plan.to_dict() for plan in plans])


def read_plans_entry(entry: Any) -> tuple[ChannelPlan, ...]:
    """Reads what :func:`plans_entry` wrote.

    Args:
        entry (Any): What stands there.

    Raises:
        PruningError: If it cannot be read, or a plan is damaged.
    """
    found = from_entry(entry)
    if not isinstance(found, list):
        raise PruningError(f'it is a {type(found).__name__}, expected a list')
    return tuple(ChannelPlan.from_dict(data) for data in found)
