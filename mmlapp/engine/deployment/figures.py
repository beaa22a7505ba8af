# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a deployment costs, before and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmlapp.core import ChannelPlan

from ..models.complexity import counted_flops, operator_flops
from ..models.inputs import InputShape
from ..training.report import count_parameters
from .recipe import dense_config

# Of costs whose name does not say how they were counted.
TITLES = {
    'flops': 'FLOPs, analytic',
    'latency': 'latency, predicted, in seconds',
}


@dataclass(frozen=True)
class Figure:
    """One quantity before and after.

    Args:
        name (str): What it is.
        before (float): Of the dense model.
        after (float): Of the deployed model.
        target (float, optional): Asked fraction. Defaults to None.
    """

    name: str
    before: float
    after: float
    target: float | None = None

    @property
    def ratio(self) -> float:
        """After divided by before."""
        return self.after / self.before


def figures_of(
    cfg: Config, shape: InputShape, plan: ChannelPlan, slim: nn.Module
) -> list[Figure]:
    """Returns what is left of every cost, and of what MMEngine counts.

    Args:
        cfg (Config): Of the pruning run.
        shape (Sequence[int] or Mapping): Of the input that is counted at.
        plan (ChannelPlan): What was kept, with the costs by our own count.
        slim (nn.Module): The deployed model, in evaluation mode.
    """
    # Anew: the model of the run has been narrowed in place.
    dense: nn.Module = MODELS.build(dense_config(cfg))
    dense.eval()
    counted = [
        counted_flops(operator_flops(model, shape)[0])
        for model in (dense, slim)
    ]
    sizes = [count_parameters(model) for model in (dense, slim)]
    # Parameters are told as they are stored, below; one count is enough.
    figures = [
        Figure(_title(name), cost['dense'], cost['pruned'], cost.get('target'))
        for name, cost in plan.costs.items()
        if name != 'parameters'
    ]
    target = {name: cost.get('target') for name, cost in plan.costs.items()}
    return [
        *figures,
        Figure('FLOPs, counted by MMEngine', *counted, target.get('flops')),
        Figure('parameters', *sizes, target.get('parameters')),
    ]


def _title(cost: str) -> str:
    return TITLES.get(cost, cost)


def file_sizes(before: str | Path, after: Path) -> Figure:
    """Returns the sizes of two checkpoints.

    Args:
        before (str or Path): That of the run, with its optimizer.
        after (Path): That which was written.
    """
    sizes = (Path(path).stat().st_size for path in (before, after))
    return Figure('bytes of the checkpoint', *sizes)
