# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How much of a network can be pruned, and why the rest cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmlapp.core import Analysis
from mmlapp.core.cost.flops import multiply_adds
from mmlapp.core.gathering import OUT_OF_SCOPE
from mmlapp.core.patterns import matches


def prunable_share(
    found: Analysis,
    scope: Sequence[str] = ('*',),
    operators: Sequence[str] = ('convolution',),
) -> float:
    """Share of multiply-adds that can be removed.

    Args:
        found (Analysis): Groups and multiply-adds.
        scope (Sequence[str]): Patterns; other layers do not count. Defaults
            to all.
        operators (Sequence[str]): What counts, ``convolution``, ``product``
            or both. Defaults to convolutions.
    """
    owner = found.groups.node_group
    total = left = 0.0
    for call in found.trace.calls:
        if call.op not in operators or not matches(call.name, scope):
            continue
        dense = multiply_adds(call)
        total += dense
        fixed = [
            float(
                (owner[ids.clamp_min(0)] < 0)[ids >= 0].sum() + (ids < 0).sum()
            )
            / ids.numel()
            for ids in call.dims.values()
        ]
        left += dense * math.prod(fixed)
    return 1 - left / total if total else math.nan


def frozen_channels(found: Analysis) -> dict[str, int]:
    """Channels in scope that stay, by reason, most first.

    Args:
        found (Analysis): Groups, frozen ones included.
    """
    counts: dict[str, int] = {}
    for group in found.groups.items:
        if group.frozen is None or group.frozen.startswith(OUT_OF_SCOPE):
            continue
        counts[group.frozen] = counts.get(group.frozen, 0) + group.size
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
