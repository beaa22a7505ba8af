# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a whole run costs, as a fraction of dense training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.conv import _ConvNd

from mmlapp.core import Pruner, PruningError
from mmlapp.core.bypass.beside import Bypassed
from mmlapp.core.numbers import check_number
from mmlapp.core.progress import Phase

from .parts import unwrap

DENSE, COST = 'dense', 'flops'
UNITS = 'epochs', 'iters'


@dataclass(frozen=True)
class StepCost:
    """Multiply-adds of a training step over those of the dense network.

    Args:
        wide (float): With all channels, which masks do not make cheaper.
        narrow (float): At most, once the network is narrow.
    """

    wide: float
    narrow: float

    def of_run(self, end: float, length: float) -> float:
        """Returns the cost of a run, in the unit of its length.

        Args:
            end (float): Of the phase.
            length (float): Of the run.
        """
        end = min(end, length)
        return self.wide * end + self.narrow * (length - end)

    def stretched(self, end: float, length: int, share: float) -> int:
        r"""Returns how long a run may be, begin and phase in proportion.

        .. math:: k (w p + n (E - p)) = s E

        Args:
            end (float): Of the phase in a run as long as dense training, p.
            length (int): Of dense training, E.
            share (float): What the run may cost of it, s.

        Returns:
            int: k E, rounded down.

        Examples:
            >>> StepCost(1.0, 0.5).stretched(end=2, length=10, share=1)
            16
        """
        # What is a whole number may come out a little below it.
        exact = share * length * length / self.of_run(end, length)
        return math.floor(exact + 1e-9)


@torch.no_grad()
def step_cost(
    model: nn.Module, pruner: Pruner, target: Mapping[str, float]
) -> StepCost:
    """Counts what branches add to the cost of a step, and bounds the rest.

    Budgets count what is deployed, training pays for branches with
    ``merge=True`` too.

    Args:
        model (nn.Module): The network before narrowing.
        pruner (Pruner): Its pruner.
        target (Mapping[str, float]): Asked fractions of the dense network.
    """
    flops = pruner.cost(COST)
    every = torch.ones_like(pruner.gate)
    layers: dict[str, float] = {}
    plain = fixed = 0.0
    for name, dense, share, grouped in _free_parts(
        model, flops.by_layer(every)
    ):
        if grouped:
            fixed += dense * share
        else:
            plain += dense * share
            layers[name] = layers.get(name, 0.0) + share
    counted = float(flops(every))
    # A plain kernel beside a layer shrinks with it: s times its cost, and no
    # layer's s is above the largest. A grouped one shrinks too; it is small.
    most = max(layers.values(), default=0.0)
    shrunk = min(plain / flops.dense, most * target[COST])
    return StepCost(
        (counted + plain + fixed) / flops.dense,
        target[COST] + shrunk + fixed / flops.dense,
    )


def _free_parts(
    model: nn.Module, costs: Mapping[str, float]
) -> Iterator[tuple[str, float, float, bool]]:
    """Layer, its cost, what share of it a free kernel costs; if grouped."""
    for name, layer in model.named_modules():
        if not isinstance(layer, Bypassed):
            continue
        if layer.bypass is None or not layer.bypass.merge:
            continue
        own: Any = layer
        for part in layer.bypass.modules():
            if isinstance(part, _ConvNd):
                # At as many positions: as the numbers of weights.
                share = part.weight.numel() / own.weight.numel()
                yield name, costs[name], share, part.groups > own.groups


@dataclass(frozen=True)
class TrainCost:
    """What a run may cost, as :class:`PruningHook` is told.

    Args:
        asked (float or str, optional): ``'dense'``, or a fraction of it.
        dense_length (Mapping[str, int], optional): Length of dense training,
            as ``epochs`` or ``iters``, which ``equal_cost`` notes.
        epoch_iters (int, optional): Iterations of an epoch, where the phase
            is counted in another unit than training. Defaults to None.

    Raises:
        PruningError: If an argument lies outside its range, or makes no sense
            without the first.
    """

    asked: float | str | None
    dense_length: Mapping[str, int] | None
    epoch_iters: int | None = None

    def __post_init__(self) -> None:
        if self.asked is not None:
            check_asked(self.asked)
        if self.epoch_iters is not None:
            check_number('epoch_iters', self.epoch_iters, least=1, whole=True)
            if self.asked is None:
                raise PruningError(
                    f'epoch_iters={self.epoch_iters} has no effect without '
                    'train_cost. Leave it out, or add train_cost'
                )
        if self.dense_length is not None:
            self._check_dense_length(self.dense_length)

    def _check_dense_length(self, length: Mapping[str, int]) -> None:
        said = f'dense_length={dict(length)}'
        if self.asked is None:
            raise PruningError(
                f'{said} without train_cost: mmlapp.engine.equal_cost notes '
                'it in a config whose training it has lengthened. Leave both '
                'out and take the lengths of dense training, or leave both in'
            )
        if len(length) != 1 or self.unit not in UNITS:
            raise PruningError(
                f'{said}: expected dict(epochs=...) or dict(iters=...)'
            )
        check_number('dense_length', self.dense, least=1, whole=True)

    @property
    def share(self) -> float:
        """What the run may cost, over dense training."""
        assert self.asked is not None
        return 1.0 if self.asked == DENSE else float(self.asked)

    @property
    def unit(self) -> str:
        """What lengths are counted in."""
        return next(iter(self.dense_length or {}), '')

    @property
    def dense(self) -> int:
        """Length of dense training, in that unit."""
        assert self.dense_length is not None
        return self.dense_length[self.unit]

    def check_settings(
        self, target: Mapping[str, float], narrow: bool
    ) -> None:
        """Refuses settings with which nothing is saved, or unknown how much.

        Args:
            target (Mapping[str, float]): Of the hook.
            narrow (bool): Of the hook.

        Raises:
            PruningError: With the setting and the remedy.
        """
        if self.asked is None:
            return
        if not narrow:
            raise PruningError(
                f'train_cost={self.asked!r} with narrow=False: a step costs '
                'what it did to the end of the run, and nothing is saved that '
                'could be spent. Leave train_cost out, or narrow=False'
            )
        if COST not in target:
            raise PruningError(
                f'train_cost={self.asked!r} with target={dict(target)}: only '
                'a target of flops says what a step costs after narrowing. '
                'Add one, such as flops=0.5, or leave train_cost out'
            )

    def check_applied(self) -> None:
        """Refuses a run whose config does not have the lengths yet.

        Raises:
            PruningError: With the remedy.
        """
        if self.asked is not None and self.dense_length is None:
            raise PruningError(
                f'train_cost={self.asked!r}, but training was not lengthened: '
                'a hook comes too late for that. Start with tools/train.py, '
                'or build the runner from mmlapp.engine.equal_cost(cfg)'
            )

    def check(
        self,
        runner: Runner,
        pruner: Pruner,
        target: Mapping[str, float],
        end: int,
    ) -> None:
        """Writes to the log what a run costs, and refuses more than asked.

        Args:
            runner (Runner): The runner.
            pruner (Pruner): Of its model, still wide.
            target (Mapping[str, float]): Of the hook.
            end (int): Iteration before which the phase is over.

        Raises:
            PruningError: With both costs.
        """
        if self.asked is None:
            return
        if pruner.phase == Phase.DENSE:
            self._check_epoch(runner)
        step = step_cost(unwrap(runner.model), pruner, target)
        dense = self._dense_iters(runner)
        share = step.of_run(end, runner.max_iters) / dense
        runner.logger.info(
            f'Pruning: training lasts {self._length(runner)} {self.unit} '
            f'instead of {self.dense}, and the whole run costs at most '
            f'{100 * share:.2f} % of dense training '
            f'(train_cost={self.asked!r})'
        )
        # A phase has one iteration at the least, however short it was asked.
        # Within one that is resumed elsewhere, epochs may have other lengths.
        beyond = share > self.share + 1 / dense
        if beyond and pruner.phase == Phase.DENSE:
            raise PruningError(
                f'train_cost={self.asked!r}, but the run costs {share:.4g} of '
                f'dense training, of {self.dense} {self.unit}: its config was '
                'changed after mmlapp.engine.equal_cost, or it goes on from '
                'where its phase should have begun before. Take dense_length '
                'out of mmlapp.PruningHook and give all lengths as for dense '
                'training, or leave both train_cost and dense_length out'
            )

    def _check_epoch(self, runner: Runner) -> None:
        if self.epoch_iters is None:
            return
        iters = len(runner.train_dataloader)
        if iters != self.epoch_iters:
            raise PruningError(
                f'epoch_iters={self.epoch_iters}, but an epoch has {iters} '
                'iterations with this batch size and number of processes: '
                'set that in mmlapp.PruningHook'
            )

    def without_narrowing(self, runner: Runner) -> str:
        """Returns what the run costs if its network stays wide, in words.

        Args:
            runner (Runner): The runner.
        """
        if self.asked is None:
            return ''
        times = runner.max_iters / self._dense_iters(runner)
        return (
            f'; the run, lengthened by train_cost={self.asked!r}, costs '
            f'{100 * times:.0f} % of dense training or more'
        )

    def _length(self, runner: Runner) -> int:
        return getattr(runner, f'max_{self.unit}')

    def _dense_iters(self, runner: Runner) -> float:
        return runner.max_iters / self._length(runner) * self.dense


def check_asked(asked: Any) -> None:
    """Refuses what is no cost of a run.

    Args:
        asked (Any): ``train_cost`` of the hook.

    Raises:
        PruningError: With the value.
    """
    if isinstance(asked, str) and asked != DENSE:
        raise PruningError(
            f"train_cost={asked!r}: expected 'dense', or a number above 0, "
            'the cost of the whole run as a fraction of dense training'
        )
    if asked != DENSE:
        check_number('train_cost', asked, above=0)
