# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Versions of what this package adds to checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmlapp.core import PruningError


def check_version(key: str, entry: Any, version: int) -> None:
    """Refuses an entry of a checkpoint that another release wrote.

    Args:
        key (str): Its name in the checkpoint.
        entry (Any): What is there.
        version (int): The version that this release reads.

    Raises:
        PruningError: With both versions.
    """
    found = entry.get('version') if isinstance(entry, Mapping) else None
    if found != version:
        raise PruningError(
            f'the checkpoint has {key} of version {found!r}: this release '
            f'reads version {version}. Use the release that wrote it'
        )
