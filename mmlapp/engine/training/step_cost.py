# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a training step costs, as a fraction of one of the dense network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from mmlapp.core import Pruner
from mmlapp.core.bypass.beside import Bypassed

COST = 'flops'
# Of a training step: its backward costs two forwards.
FORWARD = 1 / 3


@dataclass(frozen=True)
class TeacherCost:
    """What a teacher adds to a training step.

    Args:
        share (float): Multiply-adds over those of a step of the dense
            network.
        late (bool): Whether it teaches from the begin of the phase on, and
            not from that of the run.
    """

    share: float
    late: bool


def teacher_of(
    hooks: Iterable[Any], cfg: Mapping[str, Any]
) -> TeacherCost | None:
    """Returns what the teacher of a run costs, if it has one.

    Args:
        hooks (Iterable): Of the run; the one with a teacher has a method
            ``teacher_cost``.
        cfg (Mapping): Of the run.
    """
    for hook in hooks:
        if hasattr(hook, 'teacher_cost'):
            cost: TeacherCost = hook.teacher_cost(cfg)
            return cost
    return None


@dataclass(frozen=True)
class StepCost:
    """Multiply-adds of a training step over those of the dense network.

    Args:
        wide (float): With all channels, which masks do not make cheaper.
        narrow (float): At most, once the network is narrow.
        teacher (float): Of a teacher's forward beside it. Defaults to 0.
        taught_from (float): Where the teacher begins, in the unit of the
            run's length. Defaults to 0.
    """

    wide: float
    narrow: float
    teacher: float = 0.0
    taught_from: float = 0.0

    def with_teacher(self, cost: TeacherCost | None, begin: float) -> StepCost:
        """Returns the same with a teacher, if there is one.

        Args:
            cost (TeacherCost, optional): Of the teacher.
            begin (float): Of the phase, in the unit of the run's length.
        """
        if cost is None:
            return self
        start = begin if cost.late else 0.0
        return replace(self, teacher=cost.share, taught_from=start)

    def of_run(self, end: float, length: float) -> float:
        """Returns the cost of a run, in the unit of its length.

        Args:
            end (float): Of the phase.
            length (float): Of the run.
        """
        # w p + n (E - p) + t (E - b): masks cost what the wide network does,
        # and a teacher costs the same to the end.
        end, start = min(end, length), min(self.taught_from, length)
        own = self.wide * end + self.narrow * (length - end)
        return own + self.teacher * (length - start)

    def stretched(self, end: float, length: int, share: float) -> int:
        r"""Returns how long a run may be, begin and phase in proportion.

        .. math:: k (w p + n (E - p) + t (E - b)) = s E

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
    # Beside a layer of cost F a free kernel costs s F.
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
