# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What checkpoints say about the pruning besides weights and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmlapp.core import ChannelPlan, PruningError

PLAN, STATE, VERSION = 'pruning_plan', 'pruning_state', 1


@dataclass(frozen=True)
class PruningState:
    """How far the pruning of a checkpoint's model is.

    Args:
        plan (ChannelPlan, optional): From the end of the phase on. Defaults
            to None, as for a checkpoint of another kind of run.
        narrowed (bool): Whether the weights are already narrow, as the plan
            says. Defaults to False.
    """

    plan: ChannelPlan | None = None
    narrowed: bool = False

    def write(self, checkpoint: dict[str, Any]) -> None:
        """Adds the state to a checkpoint that is about to be saved.

        Args:
            checkpoint (dict): The checkpoint.
        """
        checkpoint[STATE] = dict(version=VERSION, narrowed=self.narrowed)
        if self.plan is not None:
            checkpoint[PLAN] = self.plan.to_dict()

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any]) -> PruningState:
        """Reads what :meth:`write` wrote.

        Args:
            checkpoint (Mapping): Any checkpoint.

        Raises:
            PruningError: If it is of an unknown version, or its plan is
                damaged or missing.
        """
        state, plan = checkpoint.get(STATE), checkpoint.get(PLAN)
        narrowed = False
        if state is not None:
            check_version(STATE, state, VERSION)
            narrowed = bool(state['narrowed'])
        if narrowed and plan is None:
            raise PruningError(
                f'the checkpoint is narrowed but has no {PLAN}: it is not as '
                'mmlapp.PruningHook wrote it'
            )
        return cls(
            None if plan is None else ChannelPlan.from_dict(plan), narrowed
        )


def check_version(key: str, entry: Any, version: int) -> None:
    """Refuses an entry of a checkpoint that another release wrote.

    Args:
        key (str): Its name in the checkpoint.
        entry (Any): What is there.
        version (int): The version that this release reads.

    Raises:
        PruningError: With both versions.
    """
    found = entry.get('version') if isinstance(entry, Mapping) else None
    if found != version:
        raise PruningError(
            f'the checkpoint has {key} of version {found!r}: this release '
            f'reads version {version}. Use the release that wrote it'
        )
