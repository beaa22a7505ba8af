# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The state of an optimizer goes on in one of the same kind alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from mmlapp.core import PruningError

KEY, VERSION = 'optimizer_type', 1
REMEDY = (
    'Resume with the optimizer of the checkpoint, or start a new run from '
    'its weights: load_from, without resume'
)


def note_optimizer(
    optimizer: Optimizer | None, checkpoint: dict[str, Any]
) -> None:
    """Notes whose state a checkpoint has; torch does not.

    Args:
        optimizer (Optimizer, optional): Of the run.
        checkpoint (dict): The checkpoint that is about to be saved.
    """
    if optimizer is not None:
        kind = type(optimizer).__name__
        checkpoint[KEY] = dict(version=VERSION, type=kind)


def check_optimizer(
    optimizer: Optimizer, checkpoint: Mapping[str, Any]
) -> None:
    """Refuses the state of an optimizer of another class.

    torch takes it: an ``AdamW`` goes on as the ``Adam`` of the checkpoint,
    and one whose settings are missing dies at its first step.

    Args:
        optimizer (Optimizer): Of the run that is resumed.
        checkpoint (Mapping): With ``optimizer``.

    Raises:
        PruningError: With both classes, or with what the state lacks.
    """
    own, entry = type(optimizer).__name__, checkpoint.get(KEY)
    found = entry.get('type') if isinstance(entry, Mapping) else None
    if found not in (None, own):
        raise PruningError(
            f'optimizer={own}, in the checkpoint {found}: one cannot go on '
            f'with the state of the other. {REMEDY}'
        )
    # Where the class was not noted, as MMEngine alone does not.
    if missing := _missing(optimizer, checkpoint['optimizer']):
        raise PruningError(
            f'optimizer={own} has settings that are missing in the state of '
            f'the checkpoint, {", ".join(missing)}: it is of another class. '
            f'{REMEDY}'
        )


def _missing(optimizer: Optimizer, state: Any) -> list[str]:
    """Settings that an optimizer would lack once it took a state."""
    groups = state.get('param_groups') if isinstance(state, Mapping) else None
    if not isinstance(groups, list) or not groups:
        return ['param_groups']
    # __setstate__ changes what it is called on: not the optimizer of the run,
    # which would lack its settings if this state is refused.
    twin = copy.copy(optimizer)
    # Settings of later releases of torch are filled in there.
    twin.__setstate__({'state': {}, 'param_groups': [{**g} for g in groups]})
    known = set.intersection(*(set(group) for group in twin.param_groups))
    return sorted(set(optimizer.defaults) - known)
