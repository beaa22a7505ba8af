# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Hooks that add hooks while the runner calls them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.hooks import CheckpointHook, Hook, LoggerHook
from mmengine.runner import Runner

from mmlapp.core import PruningError
from mmlapp.engine.hook_list import (
    check_before,
    check_single,
    has_hook,
    insert_before,
    replace_hook,
)

MakeRunner = Callable[..., Runner]


class Counting(Hook):
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.count = 0

    def before_run(self, runner: Runner) -> None:
        self.count += 1


class Adding(Counting):
    """Adds hooks before itself and before the checkpoint hook."""

    def before_run(self, runner: Runner) -> None:
        super().before_run(runner)
        if self.count > 1:
            return
        insert_before(runner, Counting(), Adding)
        insert_before(runner, Counting(), CheckpointHook)


def names(runner: Runner) -> list[str]:
    return [type(hook).__name__ for hook in runner.hooks]


def test_a_hook_is_put_right_before_the_others(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner()
    runner.register_hook(LoggerHook(), 'VERY_LOW')
    before, hook = names(runner), Counting()
    place = before.index('CheckpointHook')
    insert_before(runner, hook, CheckpointHook)
    assert names(runner) == [*before[:place], 'Counting', *before[place:]]
    assert hook.priority == 'VERY_LOW'
    assert has_hook(runner, Counting)


def test_where_there_are_no_others_it_has_its_own_priority(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner()
    assert not has_hook(runner, Adding)
    insert_before(runner, Counting(), Adding)
    place = names(runner).index('Counting')
    assert names(runner)[place + 1] == 'LoggerHook'


def test_nobody_is_called_twice_while_hooks_are_added(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner()
    mine = [Counting(), Adding(), Counting()]
    for hook in mine:
        runner.register_hook(hook)
    runner.call_hook('before_run')
    assert [hook.count for hook in mine] == [1, 1, 1]
    assert names(runner).count('Counting') == 4


def test_a_hook_takes_the_place_of_another_one(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner()
    place = names(runner).index('LoggerHook')
    new = Counting()
    replace_hook(runner, runner.hooks[place], new)
    assert runner.hooks[place] is new


def test_a_hook_that_comes_too_late_is_named(make_runner: MakeRunner) -> None:
    runner = make_runner()
    hook = Counting()
    runner.register_hook(hook, 'LOWEST')
    text = r"Counting \(priority='LOWEST'\) must act before CheckpointHook"
    with pytest.raises(PruningError, match=text):
        check_before(runner, hook, CheckpointHook)
    check_before(runner, hook, Adding)


def test_several_hooks_of_a_kind_are_counted() -> None:
    def run(*hooks: Hook) -> Any:
        return SimpleNamespace(hooks=hooks)

    check_single(run(Counting(), LoggerHook()), Counting)
    check_single(run(LoggerHook()), Counting)
    with pytest.raises(PruningError, match='2 hooks of type Counting'):
        check_single(run(Counting(), LoggerHook(), Adding()), Counting)
