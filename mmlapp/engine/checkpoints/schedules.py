# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Settings of schedulers, which their states bring along."""

from __future__ import annotations

import inspect
from typing import Any

# Where a scheduler stands is no setting, though it may be given.
PLACE = 'last_step'


def other_schedules(schedulers: Any, saved: Any) -> list[str]:
    """Tells what schedulers were built with and do not go on with.

    MMEngine overwrites all that they have, and passes over those that the
    checkpoint has beyond theirs.

    Args:
        schedulers (list or dict[str, list], optional): Those of the run; by
            name of the optimizer where there are several.
        saved (list or dict[str, list], optional): Their states.

    Examples:
        >>> import torch
        >>> from mmengine.optim import StepLR
        >>> weights = [torch.nn.Parameter(torch.ones(1))]
        >>> optimizer = torch.optim.SGD(weights, lr=0.1)
        >>> saved = [StepLR(optimizer, step_size=2).state_dict()]
        >>> other_schedules([StepLR(optimizer, step_size=3)], saved)
        ['StepLR: step_size=2, in the config 3']
        >>> other_schedules([], saved)
        ['1 schedulers, in the config 0']
    """
    if isinstance(schedulers, dict) and isinstance(saved, dict):
        names = schedulers.keys() & saved.keys()
        pairs = [(schedulers[name], saved[name]) for name in sorted(names)]
        return [text for pair in pairs for text in other_schedules(*pair)]
    if not isinstance(schedulers, list) or not isinstance(saved, list):
        return []
    if len(schedulers) != len(saved):
        return [f'{len(saved)} schedulers, in the config {len(schedulers)}']
    pairs = zip(schedulers, saved, strict=True)
    return [text for own, state in pairs for text in _others(own, state)]


def _others(scheduler: Any, state: Any) -> list[str]:
    """Compares what the constructors of a scheduler are given."""
    own = vars(scheduler)
    # A state holds counters too, which differ in any run that goes on. What
    # some constructor of the class takes is a setting, and nothing else is.
    given = {
        name
        for kind in type(scheduler).mro()
        for name in inspect.signature(kind.__init__).parameters
    }
    known = given & own.keys() & set(state) - {PLACE}
    return [
        f'{type(scheduler).__name__}: {name}={state[name]}, in the config '
        f'{own[name]}'
        for name in sorted(known)
        if own[name] != state[name]
    ]
