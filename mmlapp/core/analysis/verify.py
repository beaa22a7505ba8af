# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Groups with which a narrowed network runs and computes the same."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..groups import Groups
from ..units import Request, Unit
from .culprits import Search
from .trial import Trial


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
    groups = gather()
    passed = turn = 0
    # All checks have to pass one after the other with the same groups. Each
    # failure freezes at least one prunable group, so that this ends.
    while passed < len(trial.checks):
        check = trial.checks[turn % len(trial.checks)]
        failure = trial.run(groups, groups.prunable, check)
        if failure is None:
            passed, turn = passed + 1, turn + 1
            continue
        for group, reason in search.culprits(groups, check, failure):
            for member in group.members:
                nodes = torch.arange(member.site.size) + member.site.start
                request.record.graph.freeze(
                    nodes[member.channels >= 0], reason
                )
        groups, passed = gather(), 0
    return groups
