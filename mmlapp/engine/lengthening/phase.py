# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The pruning phase as a config says it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from mmengine.registry import MODELS

from mmlapp.core import PruningError
from mmlapp.core.methods.schedule import check_targets

from ..checkpoints.random_state import random_state, set_random_state
from ..training.parts import find_pruner
from ..training.phase_length import PhaseLength
from ..training.pruning_hook import PruningHook
from ..training.train_cost import COST, StepCost, TrainCost, step_cost
from .stretch import Stretch

LENGTHS = 'prune_epochs', 'prune_iters', 'begin_iters'


@dataclass
class Phase:
    """An entry of :class:`PruningHook`.

    Args:
        entry (MutableMapping): The entry.
        unit (str): What the run is counted in, ``epochs`` or ``iters``.
    """

    entry: MutableMapping[str, Any]
    unit: str

    def __post_init__(self) -> None:
        defaults = inspect.signature(PruningHook).parameters
        said = {
            name: self.entry.get(name, parameter.default)
            for name, parameter in defaults.items()
        }
        self.target = check_targets(said['target'])
        self.length = PhaseLength(*(said[name] for name in LENGTHS))
        self.cost = TrainCost(said['train_cost'], said['dense_length'])
        self.cost.check_settings(self.target, said['narrow'])

    @property
    def end(self) -> float:
        """Where the phase ends, in the unit of the run.

        Raises:
            PruningError: If it is said in the other one: how many iterations
                an epoch has is not known before the data are read.
        """
        length, asked = self.length, f'train_cost={self.cost.asked!r}'
        if self.unit == 'iters':
            if length.prune_iters is None:
                raise PruningError(
                    f'{asked}: training is counted in iterations, and the '
                    f'phase in epochs, prune_epochs={length.prune_epochs}. '
                    'Give its length as prune_iters'
                )
            return length.begin_iters + length.prune_iters
        if length.prune_iters is not None or length.begin_iters:
            raise PruningError(
                f'{asked}: training is counted in epochs, and the phase in '
                f'iterations, prune_iters={length.prune_iters} and '
                f'begin_iters={length.begin_iters}. Give its length as '
                'prune_epochs alone, or train by iterations'
            )
        return length.prune_epochs

    def stretch(self, stretch: Stretch) -> None:
        """Stretches the entry in place, and notes the length that it had.

        Args:
            stretch (Stretch): The training.
        """
        length, scale = self.length, stretch.new / stretch.old
        if self.unit == 'epochs':
            self.entry['prune_epochs'] = length.prune_epochs * scale
        else:
            # Rounded down: the rest of the run is the cheaper part.
            end = int(self.end) * stretch.new // stretch.old
            begin = length.begin_iters * stretch.new // stretch.old
            begin = max(min(begin, end - 1), 0)
            self.entry['begin_iters'] = begin
            self.entry['prune_iters'] = max(end - begin, 1)
        self.entry['dense_length'] = {self.unit: stretch.old}


def step_cost_of(cfg: Mapping[str, Any], phase: Phase) -> StepCost:
    """Returns what a step of a config costs; its model is built if needed.

    Args:
        cfg (Mapping): The config.
        phase (Phase): Its phase.
    """
    settings = cfg['model']
    if settings.get('bypass') is None:
        return StepCost(1.0, phase.target[COST])
    settings = copy.deepcopy(settings)
    if cfg.get('data_preprocessor') is not None:
        settings.setdefault('data_preprocessor', cfg['data_preprocessor'])
    state = random_state()
    try:
        model = MODELS.build(settings)
    finally:
        set_random_state(state)
    return step_cost(model, find_pruner(model), phase.target)
