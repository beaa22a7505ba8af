# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Numbers and truth values that users give, checked."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from .errors import PruningError


def check_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    whole: bool = False,
) -> Any:
    """Returns a number that a user gave, or raises.

    Texts such as ``'2'``, truth values, NaN and infinity are no numbers.

    Args:
        name (str): Of the argument, for the error text.
        value (Any): What was given.
        least (float): Smallest that is allowed. Defaults to none.
        most (float): Largest that is allowed. Defaults to none.
        above (float): What it must be more than. Defaults to nothing.
        whole (bool): Whether it must be a whole number. Defaults to False.

    Raises:
        PruningError: With the name, the value and what was expected.

    Examples:
        >>> check_number('interval', 50, least=1, whole=True)
        50
    """
    kind = Integral if whole else Real
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    number = float(value) if is_number else math.nan
    # Comparisons with NaN are False.
    good = least <= number <= most and number > above
    if not (good and math.isfinite(number)):
        limits = {'from': least, 'above': above, 'to': most}
        parts = [
            f'{word} {limit:g}'
            for word, limit in limits.items()
            if math.isfinite(limit)
        ]
        text = ' '.join(['a whole number' if whole else 'a number', *parts])
        raise PruningError(f'{name}={value!r}: expected {text}')
    return value


def check_flag(name: str, value: Any) -> bool:
    """Returns a truth value that a user gave, or raises.

    Args:
        name (str): Of the argument, for the error text.
        value (Any): What was given; 0, 1 and ``'False'`` are none.

    Raises:
        PruningError: With the name and the value.

    Examples:
        >>> check_flag('narrow', False)
        False
    """
    if not isinstance(value, bool):
        raise PruningError(f'{name}={value!r}: expected True or False')
    return value


def check_per_channel(name: str, value: Any, count: int) -> Tensor:
    """Returns a number for every channel that a user gave, or raises.

    Args:
        name (str): Of the argument, or of who returned it, for the text.
        value (Any): What was given; a list is none.
        count (int): Number of channels.

    Returns:
        Tensor: The same one, ``[count]``.

    Raises:
        PruningError: With the name, and with the shape if it has one.

    Examples:
        >>> import torch
        >>> check_per_channel('mask', torch.tensor([1, 0, 1]), 3)
        tensor([1, 0, 1])
    """
    shape = getattr(value, 'shape', None)
    if not isinstance(value, Tensor) or shape != (count,):
        said = '' if shape is None else f' of shape {tuple(shape)}'
        raise PruningError(
            f'{name}: expected one number per channel, a tensor of shape '
            f'({count},); got {type(value).__name__}{said}'
        )
    return value
