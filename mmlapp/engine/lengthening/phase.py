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

from ..checkpoints.random_state import same_random_numbers
from ..training.parts import find_pruner
from ..training.phase_length import PhaseLength
from ..training.pruning_hook import PruningHook
from ..training.step_cost import COST, StepCost, step_cost
from ..training.train_cost import TrainCost
from .stretch import Stretch

LENGTHS = 'prune_epochs', 'prune_iters', 'begin_iters'
COSTS = 'train_cost', 'dense_length', 'epoch_iters'


@dataclass
class PhaseEntry:
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
        self.cost = TrainCost(*(said[name] for name in COSTS))
        self.cost.check_settings(self.target, said['narrow'])

    @property
    def end(self) -> float:
        """Where the phase ends, in the unit of the run.

        Raises:
            PruningError: If it is said in the other one, and not how many
                iterations an epoch has: the data are not read yet.
        """
        length, by_epoch = self.length, self.unit == 'epochs'
        iters = length.begin_iters + (length.prune_iters or 0)
        epochs = length.prune_epochs if length.prune_iters is None else 0
        if by_epoch:
            return epochs + self._in_unit(iters)
        return iters + (epochs and epochs * self._epoch_iters())

    @property
    def begin(self) -> float:
        """Where the phase begins, in the unit of the run.

        Raises:
            PruningError: As for the end.
        """
        return self._in_unit(self.length.begin_iters)

    def _in_unit(self, iters: int) -> float:
        by_epoch = self.unit == 'epochs'
        return iters / self._epoch_iters() if by_epoch and iters else iters

    def _epoch_iters(self) -> int:
        if self.cost.epoch_iters is None:
            said = [f'{name}={getattr(self.length, name)}' for name in LENGTHS]
            raise PruningError(
                f'train_cost={self.cost.asked!r}: training is counted in '
                f'{self.unit}, and the phase, {", ".join(said)}, is not. Say '
                'in mmlapp.PruningHook how many iterations an epoch has, '
                'epoch_iters=..., or count both in one unit'
            )
        return self.cost.epoch_iters

    def stretch(self, stretch: Stretch) -> None:
        """Stretches the entry in place, and notes the length that it had.

        Args:
            stretch (Stretch): The training.
        """
        length, old, new = self.length, stretch.old, stretch.new
        # Rounded down: the rest of the run is the cheaper part.
        begin = length.begin_iters * new // old
        if length.prune_iters is None:
            self.entry['prune_epochs'] = length.prune_epochs * new / old
        else:
            # Both ends, not the length, so that it ends where the rest was
            # counted from; one iteration at least.
            end = (length.begin_iters + length.prune_iters) * new // old
            begin = max(min(begin, end - 1), 0)
            self.entry['prune_iters'] = max(end - begin, 1)
        if length.begin_iters:
            self.entry['begin_iters'] = begin
        self.entry['dense_length'] = {self.unit: old}


def step_cost_of(cfg: Mapping[str, Any], phase: PhaseEntry) -> StepCost:
    """Returns what a step of a config costs; its model is built if needed.

    Args:
        cfg (Mapping): The config.
        phase (PhaseEntry): Its phase.
    """
    settings = cfg['model']
    if settings.get('bypass') is None:
        # Without branches a masked step costs what a dense one does, a narrow
        # one what was asked for.
        return StepCost(1.0, phase.target[COST])
    settings = copy.deepcopy(settings)
    if cfg.get('data_preprocessor') is not None:
        settings.setdefault('data_preprocessor', cfg['data_preprocessor'])
    with same_random_numbers():
        model = MODELS.build(settings)
    return step_cost(model, find_pruner(model), phase.target)
