# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What checkpoints say about the pruning besides weights and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmlapp.core import ChannelPlan, PruningError

PLAN, STATE = 'pruning_plan', 'pruning_state'
VERSION = 1


def write_state(
    checkpoint: dict[str, Any],
    plan: ChannelPlan | None,
    narrowed: bool,
    random: list[dict[str, Any]],
) -> None:
    """Adds plan and state to a checkpoint that is about to be saved.

    Args:
        checkpoint (dict): The checkpoint.
        plan (ChannelPlan, optional): From the end of the phase on.
        narrowed (bool): Whether the weights are already narrow.
        random (list[dict]): State of the random numbers of each process.
    """
    checkpoint[STATE] = dict(version=VERSION, narrowed=narrowed, random=random)
    if plan is not None:
        checkpoint[PLAN] = plan.to_dict()


def read_state(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Reads what :func:`write_state` wrote.

    Args:
        checkpoint (Mapping): Any checkpoint.

    Returns:
        dict: ``narrowed``, ``random``; the defaults for a checkpoint of
        another kind of run.

    Raises:
        PruningError: If it is of an unknown version.
    """
    state = checkpoint.get(STATE)
    if state is None:
        return dict(narrowed=False, random=[])
    version = state.get('version') if isinstance(state, Mapping) else None
    if version != VERSION:
        raise PruningError(
            f'the checkpoint has {STATE} of version {version!r}: this release '
            f'reads version {VERSION}. Use the release that wrote it'
        )
    return dict(narrowed=bool(state['narrowed']), random=state['random'])


def narrowed_to(checkpoint: Mapping[str, Any]) -> ChannelPlan | None:
    """Returns the plan of a checkpoint whose weights are narrow.

    Args:
        checkpoint (Mapping): Any checkpoint.

    Raises:
        PruningError: If it is of an unknown version, or its plan is damaged.
    """
    if not read_state(checkpoint)['narrowed']:
        return None
    if PLAN not in checkpoint:
        raise PruningError(
            f'the checkpoint is narrowed but has no {PLAN}: it is not as '
            'mmlapp.PruningHook wrote it'
        )
    return ChannelPlan.from_dict(checkpoint[PLAN])
