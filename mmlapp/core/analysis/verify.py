# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Groups with which a narrowed network runs and computes the same.

What does not run with a single channel, or gives no numbers, keeps two, if it
does with two. What runs with even numbers of channels alone, or with multiples
of four or eight, loses that many at a time. What fails otherwise keeps all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..groups import ChannelGroup, Groups
from ..trace import Trace
from ..units import Request, Unit
from .alone import lone_groups
from .checks import Check
from .counts import Count, kept_count
from .culprits import Culprit, Search
from .equal_widths import unequal_checks
from .remainders import remainder_checks
from .stages import Failure
from .thresholds import decide_thresholds
from .trial import Trial

# Of what code may ask the number of channels to be a multiple.
BUNDLES = 2, 4, 8
BUNDLED = 'goes with channels that must stay'


def verify_groups(
    request: Request, unit: Unit, gather: Callable[[], Groups]
) -> Groups:
    """Narrows a network on trial and freezes what it cannot do without.

    Args:
        request (Request): The network; it is put back as it was. Its trace
            receives what is frozen.
        unit (Unit): What is removed.
        gather (Callable): Gathers the groups of the trace anew.

    Returns:
        Groups: With which the narrowed network runs and agrees.
    """
    trial = Trial(request, unit)
    search = Search(trial)
    record = request.record
    groups = decide_thresholds(trial, record, gather)
    if _leave_two(record, lone_groups(request.model, record, groups)):
        groups = gather()
    trial.checks += unequal_checks(record, groups)
    trial.checks += remainder_checks(record, groups, trial.asking)
    passed = turn = 0
    # All checks have to pass one after the other with the same groups. Each
    # failure freezes at least one prunable group, or leaves it two channels
    # instead of one, so that this ends.
    while passed < len(trial.checks):
        check = trial.checks[turn % len(trial.checks)]
        failure = trial.run(groups, groups.prunable, check)
        if failure is None:
            passed, turn = passed + 1, turn + 1
            continue
        found = search.culprits(groups, check, failure)
        lone = [culprit.group for culprit in found if culprit.alone]
        if not (
            _leave_two(record, lone)
            or _bundle(trial, groups, found, check, failure)
        ):
            _freeze(record, found)
        groups, passed = gather(), 0
    return groups


def _leave_two(record: Trace, groups: Sequence[ChannelGroup]) -> bool:
    """Lets groups keep two channels; False if that was asked of all before."""
    nodes = [group.nodes for group in groups]
    fresh = [
        (ids, 2)
        for ids in nodes
        if not any(torch.equal(ids, known) for known, _ in record.lasting)
    ]
    record.lasting += fresh
    return bool(fresh)


def _bundle(
    trial: Trial,
    groups: Groups,
    culprits: Sequence[Culprit],
    check: Check,
    failure: Failure,
) -> bool:
    """Ties channels that go together, if that is all it takes.

    Args:
        trial (Trial): Runs the network.
        groups (Groups): All groups.
        culprits (Sequence[Culprit]): Without channels of which it fails.
        check (Check): What failed.
        failure (Failure): How.
    """
    chosen = [culprit.group for culprit in culprits]
    again = any(group.block > 1 for group in chosen)
    if not failure.error or check.count is not Count.SOME or again:
        return False
    for number in BUNDLES:
        if any(g.size % number or g.size == number for g in chosen):
            break
        kept = tuple(
            (group.name, number * kept_count(group.size // number, place))
            for place, group in enumerate(chosen)
        )
        if trial.run(groups, chosen, replace(check, kept=kept)) is None:
            for group in chosen:
                # Nodes of channels [size] -> [bundles, number].
                nodes = group.nodes.view(-1, number)
                trial.record.graph.unite(nodes, nodes[:, :1], BUNDLED)
            return True
    return False


def _freeze(record: Trace, culprits: Sequence[Culprit]) -> None:
    """Lets culprits keep all their channels."""
    for culprit in culprits:
        for member in culprit.group.members:
            nodes = torch.arange(member.site.size) + member.site.start
            record.graph.freeze(nodes[member.channels >= 0], culprit.reason)
