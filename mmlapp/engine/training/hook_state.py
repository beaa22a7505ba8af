# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the hook was asked for, and what it narrowed the model to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmlapp.core import ChannelPlan, Pruner
from mmlapp.core.methods.schedule import check_targets
from mmlapp.core.numbers import check_flag, check_number
from mmlapp.core.pruner.stability import StableEnd

from .history import RunHistory
from .narrowing import narrow_run
from .optim_wrapper import _PrunerStep
from .phase_length import BoundedLength, PhaseLength, check_end
from .report import StepTime
from .run_settings import RunSettings
from .train_cost import TrainCost

TARGET = {'flops': 0.5}


class HookState(Hook):
    """Arguments and state of :class:`PruningHook`, which says what they are.

    Raises:
        PruningError: If an argument lies outside its range.
    """

    # Before EMAHook (NORMAL, in some configs 49) and LoggerHook.
    priority = 'ABOVE_NORMAL'

    def __init__(
        self,
        target: Mapping[str, float] = TARGET,
        prune_epochs: float = 2,
        prune_iters: int | None = None,
        begin_iters: int = 0,
        interval: int = 50,
        narrow: bool = True,
        end: str | Mapping[str, Any] | StableEnd | None = None,
        train_cost: float | str | None = None,
        dense_length: Mapping[str, int] | None = None,
        epoch_iters: int | None = None,
    ) -> None:
        self.target = check_targets(target)
        self.cost = TrainCost(train_cost, dense_length, epoch_iters)
        self.cost.check_settings(self.target, narrow)
        # With a bound on the cost a phase must not be longer than asked.
        kind = PhaseLength if train_cost is None else BoundedLength
        self.length = kind(prune_epochs, prune_iters, begin_iters)
        self.end = check_end(end)
        self.interval = check_number('interval', interval, least=1, whole=True)
        self.narrow = check_flag('narrow', narrow)
        self._infinite: frozenset[str] = frozenset()
        self.plan: ChannelPlan | None = None
        self._phase: int | None = None
        self._compared = False
        self._loaded: RunSettings | None = None
        self._step_time = StepTime(interval)
        self._history = RunHistory()

    def _settings(self, pruner: Pruner) -> RunSettings:
        return RunSettings.of(
            pruner,
            {'target': self.target, 'end': self.end, **asdict(self.length)},
        )

    def _narrow(self, runner: Runner, plan: ChannelPlan) -> None:
        narrow_run(runner, plan)
        self.plan = plan
        wrapper = getattr(runner, 'optim_wrapper', None)
        if isinstance(wrapper, _PrunerStep):
            # Its parameters are gone; a step of it would be refused.
            wrapper.pruner = None
