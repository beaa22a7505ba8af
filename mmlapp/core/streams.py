# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Residual streams: channels to which several layers add their outputs."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .errors import PruningWarning
from .touched import roots
from .trace import Trace

KEPT = 'of a residual stream, left whole by keep_streams=True'
NO_STREAM = (
    'keep_streams=True: no two layers add their outputs in this network, so '
    'that there is no residual stream to leave whole. Leave it out'
)


def leave_streams(trace: Trace) -> None:
    """Leaves all residual streams whole: their channels are frozen.

    Args:
        trace (Trace): What one forward recorded; changed in place.
    """
    found = streams(trace)
    if not len(found):
        warnings.warn(NO_STREAM, PruningWarning, stacklevel=4)
    trace.graph.freeze(found, KEPT)


def streams(trace: Trace) -> Tensor:
    """Returns a node of every channel to which several layers add.

    Those of shortcuts, of feature pyramids, and of any other sum of what two
    layers emit. A layer that computes channel by channel adds no width to
    agree about, and a product, such as that of a gate, is no sum.

    Args:
        trace (Trace): What one forward recorded.

    Returns:
        Tensor: The smallest node of each, ascending.
    """
    root = trace.graph.resolve()
    by_channel = channelwise(trace)
    # Layers that emit it, by component; [nodes].
    emitting = torch.zeros_like(root)
    for site in trace.producers:
        if site.module not in by_channel:
            span = slice(site.start, site.start + site.size)
            emitting[root[span].unique()] += 1
    added = torch.zeros_like(root, dtype=torch.bool)
    for ids in trace.added:
        added[roots(root, ids)] = True
    return (added & (emitting > 1)).nonzero()[:, 0]


def channelwise(trace: Trace) -> set[str]:
    """Names of grouped convolutions, tied to the channels that they read.

    Args:
        trace (Trace): What one forward recorded.
    """
    return {
        call.name for call in trace.calls if call.geometry.get('groups', 1) > 1
    }
