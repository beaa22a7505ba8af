# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What names in a config mean that say no package."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from mmengine.registry import DefaultScope


def default_scope_of(cfg: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Lets names without a package mean those of a config's default scope.

    A runner does so when it is built; what builds a part of a config before
    or without one must do it, too.

    Args:
        cfg (Mapping): The config.

    Returns:
        AbstractContextManager: The scope holds inside of it.
    """
    # Not None, which would leave the scope of whatever ran before.
    name = cfg.get('default_scope') or 'mmengine'
    found: AbstractContextManager[None] = DefaultScope.overwrite_default_scope(
        name
    )
    return found
