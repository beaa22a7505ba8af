# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Groups without a way around them: all of some output comes through them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import and_

import torch
from torch import Tensor

from .gathering import read_by
from .groups import Groups
from .trace import Trace

# What a layer reads that no layer emits: the image, or a constant.
SOURCE = -1


def sole_paths(trace: Trace, groups: Groups) -> set[str]:
    """Returns the prunable groups that information cannot go around.

    Layers lead from the channels that they read to those that they emit. A
    group is the sole path if every way from the input to some output goes
    through it: it dominates the output in the graph of groups. Inner widths
    of residual blocks and of branches that are joined are none; the streams
    themselves, plain chains and the towers of heads are.

    Args:
        trace (Trace): What one forward recorded.
        groups (Groups): Its channel groups.

    Returns:
        set[str]: Their names.
    """
    owner = _owners(trace, groups)
    made_of = _made_of(trace, owner)
    # Positions tell nothing of the input, and words are all of it: a table
    # is a source where no layer leads to.
    for number in _looked_up(trace, owner) - _dominators(made_of).keys():
        made_of.setdefault(number, set()).add(SOURCE)
    above = _dominators(made_of)
    # Bits of all groups that some end is dominated by.
    passed = 0
    for end in _ends(trace, groups, owner):
        passed |= above.get(end, 0)
    return {
        group.name
        for number, group in enumerate(groups.items)
        if group.frozen is None and passed >> number & 1
    }


def _owners(trace: Trace, groups: Groups) -> Tensor:
    """Number of the group of every node, frozen ones too; ``[nodes]``."""
    owner = torch.full((trace.graph.size,), SOURCE)
    for number, group in enumerate(groups.items):
        for member in group.members:
            site = member.site
            # Index i of the dimension is the node start + i.
            part = owner[site.start : site.start + site.size]
            part[member.channels >= 0] = number
    return owner


def _made_of(trace: Trace, owner: Tensor) -> dict[int, set[int]]:
    """For every group those that its layers read, or the source."""
    made_of: dict[int, set[int]] = {}
    for call in (*trace.calls, *trace.further_calls):
        # A product of activations, named after its operator, makes nothing.
        if '::' in call.name or 'in' not in call.dims:
            continue
        read = _numbers(owner, call.dims['in'])
        for number in _numbers(owner, call.dims['out']) - {SOURCE}:
            made_of.setdefault(number, set()).update(read)
    return made_of


def _looked_up(trace: Trace, owner: Tensor) -> set[int]:
    """Groups that begin with an embedding, or to which one is added."""
    calls = (*trace.calls, *trace.further_calls)
    tables = [call for call in calls if call.op == 'embedding']
    return {n for call in tables for n in _numbers(owner, call.dims['out'])}


def _dominators(made_of: Mapping[int, set[int]]) -> dict[int, int]:
    """For every group a number whose bits are the groups on all ways to it.

    Args:
        made_of (Mapping): Groups that each is made of, or the source.

    Returns:
        dict[int, int]: Without those that the source does not reach.
    """
    # dom(g) is g and what dominates all that g is made of, and nothing
    # dominates the source. Sets shrink until that holds: the largest ones.
    found: dict[int, int] = {}
    changed = True
    while changed:
        changed = False
        for group, others in made_of.items():
            # What no layer makes is as good as the source.
            above = [
                found[other] if other in made_of else 0
                for other in others
                if other in found or other not in made_of
            ]
            if above:
                bits = reduce(and_, above) | 1 << group
                changed |= found.get(group) != bits
                found[group] = bits
    return found


def _ends(trace: Trace, groups: Groups, owner: Tensor) -> set[int]:
    """Groups that the network returns, or that nothing reads."""
    returned, read = (
        {number for ids in labels for number in _numbers(owner, ids)}
        for labels in (trace.returned, read_by(trace))
    )
    unread = set(range(len(groups.items))) - read
    return returned | unread


def _numbers(owner: Tensor, ids: Tensor) -> set[int]:
    """Groups of labels; the source where there is none."""
    return set(torch.where(ids < 0, SOURCE, owner[ids]).tolist())
