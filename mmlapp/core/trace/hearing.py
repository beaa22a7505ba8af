# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What code asks for where a network runs otherwise, such as in training.

The same layers run, but a branch may ask for another number of channels. What
is tied there is left alone: the trial tells whether that agrees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .record import Trace
from .thresholds import Remainder, Threshold


def hear(record: Trace, other: Trace) -> None:
    """Takes over what code asked for in another trace of a network.

    Args:
        record (Trace): What receives it.
        other (Trace): Of a forward that reaches no other layers.
    """
    moved, root = _translation(record, other), record.graph.resolve()
    known = {_key(asked, root) for asked in record.thresholds}
    known |= {_key(asked, root) for asked in record.remainders}
    for threshold in other.thresholds:
        ids, against = moved(threshold.ids), moved(threshold.against)
        found = replace(threshold, ids=ids, against=against)
        if _key(found, root) not in known:
            record.thresholds.append(found)
    for remainder in other.remainders:
        left = replace(remainder, ids=moved(remainder.ids))
        if _key(left, root) not in known:
            record.remainders.append(left)
    record.elements_counted |= other.elements_counted
    record.measured |= other.measured
    measured = moved(other.measured_nodes)
    nodes = torch.cat([record.measured_nodes, measured[measured >= 0]])
    record.measured_nodes = nodes.unique()


def _translation(record: Trace, other: Trace) -> Callable[[Tensor], Tensor]:
    """How labels of the other trace are called in this one, ``[size]``."""
    own = {(site.name, site.dim): site for site in record.sites}
    root = other.graph.resolve()
    # Component of the other trace -> node of this one, [nodes], -1 for none:
    # by the places in parameters that belong to it.
    known = torch.full_like(root, -1)
    for site in other.sites:
        same = own.get((site.name, site.dim))
        if same is not None and same.size == site.size:
            nodes = torch.arange(site.size)
            known[root[nodes + site.start]] = nodes + same.start
    return lambda ids: torch.where(ids < 0, -1, known[root[ids]])


def _key(asked: Threshold | Remainder, root: Tensor) -> tuple[object, ...]:
    """The same for the same channels, whatever they are called."""
    ids = torch.where(asked.ids < 0, -1, root[asked.ids]).tolist()
    if isinstance(asked, Remainder):
        return asked.divisor, *ids
    against = torch.where(asked.against < 0, -1, root[asked.against])
    return asked.least, tuple(against.tolist()), *ids
