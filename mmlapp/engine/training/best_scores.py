# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Best values that hooks and schedulers remember, of a former network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.logging import MessageHub
from mmengine.optim.scheduler.param_scheduler import (
    ReduceOnPlateauParamScheduler,
)
from mmengine.runner import Runner
from torch import nn

from mmlapp.core.progress import Phase

# What a hook of the user has to be called when the network has changed.
EVENT = 'after_pruning'
# Names in the message hub, alone or with the name of a metric behind them.
BEST_INFO = 'best_score', 'best_ckpt'
# Where early stopping has its threshold while that does not count.
HELD = '_held_threshold'


def forget_checkpoint(hook: CheckpointHook, runner: Runner) -> None:
    """Makes the next score the best; the best file so far stays on disk.

    Args:
        hook (CheckpointHook): With ``save_best``.
        runner (Runner): The runner.
    """
    hub = runner.message_hub
    for key in list(hub.runtime_info):
        if key in BEST_INFO or key.startswith(
            tuple(f'{k}_' for k in BEST_INFO)
        ):
            forget_entry(hub, key)
    for path in _forgotten_paths(hook):
        runner.logger.info(
            f'Pruning: {path} is of the network before the end of the phase; '
            'it stays, and save_best starts anew'
        )


def _forgotten_paths(hook: Any) -> list[str]:
    """Forgets the best files of a hook; returns those that there were."""
    # One path where save_best names one metric, a path for each where it names
    # several; without save_best there is neither.
    several = getattr(hook, 'best_ckpt_path_dict', {})
    found = [getattr(hook, 'best_ckpt_path', None), *several.values()]
    if hasattr(hook, 'best_ckpt_path'):
        hook.best_ckpt_path = None
    # Metrics stay, without a file, as when the hook began.
    several.update(dict.fromkeys(several))
    return [path for path in found if path]


def forget_stopping(hook: EarlyStoppingHook, runner: Runner) -> None:
    """Makes the next score the best, after no waiting.

    Args:
        hook (EarlyStoppingHook): The hook.
        runner (Runner): The runner.
    """
    # Where the hook itself begins: any score is better.
    hook.best_score = -math.inf if hook.rule == 'greater' else math.inf
    hook.wait_count = 0
    if HELD in vars(hook):
        hook.stopping_threshold = vars(hook).pop(HELD)


def hold_stopping(hook: EarlyStoppingHook, runner: Runner) -> None:
    """Lets no score end the training, neither a worse one nor a good one.

    Args:
        hook (EarlyStoppingHook): The hook; :func:`forget_stopping` gives its
            threshold back.
        runner (Runner): The runner.
    """
    forget_stopping(hook, runner)
    vars(hook)[HELD] = hook.stopping_threshold
    hook.stopping_threshold = None


def forget_plateau(
    scheduler: ReduceOnPlateauParamScheduler, runner: Runner
) -> None:
    """Makes the next score the best, after no waiting and no cooldown.

    Args:
        scheduler (ReduceOnPlateauParamScheduler): The scheduler.
        runner (Runner): The runner.
    """
    scheduler._reset()


Act = Callable[..., None]
# What keeps a best value: how it starts anew, and what is done to it before
# every validation in which phases, since it would act on a network that does
# not stay.
KINDS: dict[type, tuple[Act, dict[Phase, Act]]] = {
    CheckpointHook: (forget_checkpoint, {}),
    EarlyStoppingHook: (
        forget_stopping,
        dict.fromkeys((Phase.DENSE, Phase.PRUNING), hold_stopping),
    ),
    ReduceOnPlateauParamScheduler: (
        forget_plateau,
        {Phase.PRUNING: forget_plateau},
    ),
}


def start_anew(runner: Runner) -> None:
    """Forgets best scores: the network that they are of is no more.

    Of ``save_best``, ``EarlyStoppingHook`` and the plateau schedulers, and
    of every other hook that has a method ``after_pruning(runner)``.

    Args:
        runner (Runner): The runner, right after the end of the phase.
    """
    for keeper in _keepers(runner):
        for kind, (forget, _) in KINDS.items():
            if isinstance(keeper, kind):
                forget(keeper, runner)
        if hasattr(keeper, EVENT):
            getattr(keeper, EVENT)(runner)


def hold(runner: Runner, phase: Phase) -> None:
    """Keeps what waits for better scores from acting in the phase.

    Early stopping waits for the end of the phase, and rates are not reduced
    because the network becomes smaller.

    Args:
        runner (Runner): The runner, before a validation.
        phase (Phase): Of its network.
    """
    for keeper in _keepers(runner):
        for kind, (_, held) in KINDS.items():
            if phase in held and isinstance(keeper, kind):
                held[phase](keeper, runner)


def warn_of_others(runner: Runner) -> None:
    """Names what seems to keep a best value and will not start anew.

    Args:
        runner (Runner): The runner of the training process.
    """
    names = [
        type(keeper).__name__
        for keeper in _keepers(runner)
        if not isinstance(keeper, tuple(KINDS))
        and not hasattr(keeper, EVENT)
        and _remembers({**_defaults(type(keeper)), **vars(keeper)})
    ]
    if names:
        runner.logger.warning(
            f'Pruning: {", ".join(names)} may keep a best score of the '
            'network before the end of the phase, which the small one never '
            f'reaches. Give it a method {EVENT}(runner) that starts anew'
        )


def _defaults(kind: type) -> dict[str, Any]:
    """What a class of somebody keeps for all, as a first best value of 0."""
    return {
        name: value
        for owner in kind.__mro__
        if not owner.__module__.startswith('mmengine.')
        for name, value in vars(owner).items()
        if isinstance(value, (int, float, dict))
    }


def _remembers(values: Mapping[str, Any]) -> bool:
    """Whether a name tells of a best value, here or one level below."""
    inner = [name for value in values.values() for name in _names_in(value)]
    return any('best' in str(name).lower() for name in [*values, *inner])


def _names_in(value: Any) -> Iterable[Any]:
    """Keys or attributes of a value that may belong to a hook alone."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, (nn.Module, Hook, type)):
        return ()
    return getattr(value, '__dict__', ())


def forget_entry(hub: MessageHub, key: str) -> None:
    """Removes an entry from a message hub and from what it saves.

    Args:
        hub (MessageHub): Of the run.
        key (str): Name of the entry; it may be missing.
    """
    hub.log_scalars.pop(key, None)
    hub.pop_info(key)
    # Else a resumed run would miss it.
    hub._resumed_keys.pop(key, None)


def _keepers(runner: Runner) -> Iterator[Any]:
    """All hooks and schedulers of a run."""
    yield from runner.hooks
    # A list, or a list by name of the optimizer where there are several; none
    # at all in a test.
    schedulers = runner.param_schedulers or []
    lists = (
        schedulers.values() if isinstance(schedulers, dict) else [schedulers]
    )
    for each in lists:
        yield from each
