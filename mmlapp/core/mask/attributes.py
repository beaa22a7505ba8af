# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attributes of blocks that follow the channels which they count."""

from __future__ import annotations

import torch
from torch import Tensor

from ..groups import Groups
from ..trace import Site, Trace


def widths_of_groups(
    record: Trace, groups: Groups
) -> list[tuple[Site, Tensor]]:
    """Returns attributes of blocks, and the channel at every index.

    Args:
        record (Trace): The trace.
        groups (Groups): The channel groups.
    """
    added = []
    for name, seen in record.widths.items():
        # [size] at every call; one that counts others at each counts none.
        calls = [groups.channels_at(ids) for ids in seen]
        same = all(torch.equal(calls[0], other) for other in calls[1:])
        if same and (calls[0] >= 0).any():
            # No nodes of its own: it follows channels and ties none.
            site = Site(name, 0, -1, len(calls[0]), attribute=True)
            added.append((site, calls[0]))
    return added
