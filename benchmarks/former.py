# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Defaults that committed results were measured with, and that have changed.

What is not told otherwise is run with those of today.
"""

from __future__ import annotations

from typing import Any

# By squared gradients.
CURVATURE: dict[str, Any] = {
    'type': 'lapp',
    'update': {'type': 'balance', 'sensitivity': 'curvature'},
}
# LAPP had no floor of its own.
NO_FLOOR: dict[str, Any] = {'min_keep': 0}
# Residual streams were pruned in all recipes.
ALL_GROUPS: dict[str, Any] = {
    'method': CURVATURE,
    'keep_streams': False,
    **NO_FLOOR,
}
