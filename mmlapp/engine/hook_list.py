# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The hooks of a runner, changed while it may be calling them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmlapp.core import PruningError


def has_hook(runner: Runner, kind: type[Hook]) -> bool:
    """Whether a runner has a hook of a kind or of a subclass.

    Args:
        runner (Runner): The runner.
        kind (type[Hook]): Class of the hook.
    """
    return any(isinstance(hook, kind) for hook in runner.hooks)


def averaged_models(runner: Runner) -> Iterator[Any]:
    """Yields the averaged copies (EMA) that hooks keep.

    Args:
        runner (Runner): The runner.
    """
    for hook in runner.hooks:
        # An EMAHook has none before its before_run.
        averaged = getattr(hook, 'ema_model', None)
        if averaged is not None:
            yield averaged


def check_single(runner: Runner, kind: type[Hook]) -> None:
    """Refuses several hooks of a kind, of which each would act.

    Args:
        runner (Runner): The runner.
        kind (type[Hook]): Class of the hook.

    Raises:
        PruningError: With their number.
    """
    count = sum(isinstance(hook, kind) for hook in runner.hooks)
    if count > 1:
        raise PruningError(
            f'the run has {count} hooks of type {kind.__name__}: leave one in '
            'custom_hooks. A config adds its own to those that it takes over '
            'with {{_base_.custom_hooks}}'
        )


def insert_before(runner: Runner, hook: Hook, kind: type[Hook]) -> None:
    """Registers a hook so that it acts right before the hooks of a kind.

    Args:
        runner (Runner): The runner.
        hook (Hook): Takes over the priority of the first of them; where there
            is none it is registered with its own.
        kind (type[Hook]): Class of the others.
    """
    hooks = _own_list(runner)
    # Not register_hook alone, which puts it behind all of its priority.
    for index, other in enumerate(hooks):
        if isinstance(other, kind):
            hook.priority = other.priority
            hooks.insert(index, hook)
            return
    # Without others of the kind its own priority decides.
    runner.register_hook(hook)


def replace_hook(runner: Runner, old: Hook, new: Hook) -> None:
    """Puts a hook in the place of another one.

    Args:
        runner (Runner): The runner.
        old (Hook): Is no longer called.
        new (Hook): Is called instead.
    """
    hooks = _own_list(runner)
    hooks[hooks.index(old)] = new


def check_before(runner: Runner, hook: Hook, kind: type[Hook]) -> None:
    """Refuses an order in which a hook would come too late.

    Args:
        runner (Runner): The runner.
        hook (Hook): One of its hooks.
        kind (type[Hook]): Class of those that must act later.

    Raises:
        PruningError: With the priorities of both.
    """
    # A runner keeps its hooks in the order in which they act.
    for other in runner.hooks[: runner.hooks.index(hook)]:
        if isinstance(other, kind):
            first, second = type(hook).__name__, type(other).__name__
            raise PruningError(
                f'{first} (priority={hook.priority!r}) must act before '
                f'{second} (priority={other.priority!r}): give {first} a '
                'higher priority, which is a lower number, or leave it out of '
                'a config with PruningHook, which adds it'
            )


def _own_list(runner: Runner) -> list[Hook]:
    """A new list: in the one that is walked through, hooks would shift."""
    runner._hooks = list(runner.hooks)
    return runner._hooks
