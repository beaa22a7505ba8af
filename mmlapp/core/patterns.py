# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Patterns of module names."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence, Set
from typing import Any

from .errors import PruningError


def as_patterns(argument: str, value: Any) -> tuple[str, ...]:
    """Returns one pattern or several as a tuple, or raises.

    Args:
        argument (str): What they are given as, for the error text.
        value (str or Sequence[str]): The patterns.

    Raises:
        PruningError: If they are no texts.

    Examples:
        >>> as_patterns('scope', 'backbone')
        ('backbone',)
    """
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (Sequence, Set)) or not all(
        isinstance(pattern, str) for pattern in value
    ):
        raise PruningError(
            f'{argument}={value!r}: expected a pattern of module names such '
            "as 'backbone', or a list of patterns"
        )
    return tuple(value)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a module or one of its parents matches a glob pattern.

    Args:
        name (str): Qualified module name.
        patterns (Sequence[str]): Globs such as ``'backbone'`` or
            ``'*.conv2'``.

    Examples:
        >>> matches('backbone.layer1.0.conv1', ['backbone'])
        True
        >>> matches('neck.conv', ['backbone', '*.fc'])
        False
    """
    parts = name.split('.')
    parents = ['.'.join(parts[:i]) for i in range(1, len(parts) + 1)] or ['']
    return any(
        fnmatch.fnmatchcase(parent, pattern)
        for parent in parents
        for pattern in patterns
    )
