# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the log and the visualizer are told of a pruning run."""

from __future__ import annotations

from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn

from mmlapp.core import LAPP, ChannelPlan
from mmlapp.core.pruner_state import FINISHED


def group_scalars(lapp: LAPP) -> dict[str, float]:
    """Keep ratio and threshold of every group, by name."""
    keep = lapp.keep_ratios()
    thresholds = dict(zip(keep, lapp.threshold.tolist(), strict=True))
    return {
        'pruning/flops_ratio': lapp.ratio,
        'pruning/flops_target': lapp.target,
        **{f'pruning/keep/{name}': value for name, value in keep.items()},
        **{f'pruning/threshold/{n}': value for n, value in thresholds.items()},
    }


def report_groups(logger: MMLogger, lapp: LAPP) -> None:
    """Writes a table of all groups to the log."""
    keep = lapp.keep_ratios()
    width = max(map(len, keep))
    rows = [
        f'{name:<{width}}  {share:>6.1%}  {threshold:>9.4f}'
        for (name, share), threshold in zip(
            keep.items(), lapp.threshold.tolist(), strict=True
        )
    ]
    state = 'Pruning finished' if lapp.phase == FINISHED else 'Pruning'
    head = f'{"group":<{width}}  {"kept":>6}  {"threshold":>9}'
    logger.info(
        f'{state}: {lapp.ratio:.2%} of the dense FLOPs, target '
        f'{lapp.target:.2%}\n' + '\n'.join([head, *rows])
    )


def count_parameters(model: nn.Module) -> int:
    """Number of trained and fixed values, shared ones once."""
    return sum(p.numel() for p in model.parameters())


def report_narrowing(
    logger: MMLogger, plan: ChannelPlan, before: int, after: int
) -> None:
    """Writes FLOPs and parameters before and after narrowing to the log."""
    dense, pruned = plan.flops['dense'], plan.flops['pruned']
    logger.info(
        f'Pruning: the model is narrow now: FLOPs {dense:.4g} to {pruned:.4g} '
        f'({plan.ratio:.2%}), parameters {before:,} to {after:,} '
        f'({after / before:.2%})'
    )


class StepTime:
    """Time of a training step without waiting for data.

    Reads what ``IterTimerHook`` of MMEngine notes; without that hook it says
    nothing.

    Args:
        window (int): Steps to average over.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.before: float | None = None
        self.begin: int | None = None

    def narrowed(self, runner: Runner) -> None:
        """Notes the mean of the last steps with masks."""
        self.before, self.begin = self._mean(runner), runner.iter

    def after_step(self, runner: Runner) -> None:
        """Reports once the window is full."""
        if self.begin is None or runner.iter - self.begin <= self.window:
            return
        after, self.begin = self._mean(runner), None
        if self.before is None or after is None:
            return
        runner.logger.info(
            f'Pruning: a training step takes {after:.4f} s; before narrowing '
            f'it took {self.before:.4f} s ({after / self.before:.0%})'
        )

    def _mean(self, runner: Runner) -> float | None:
        scalars = runner.message_hub.log_scalars
        if 'train/time' not in scalars or 'train/data_time' not in scalars:
            return None
        whole, data = (
            scalars[f'train/{name}'].mean(self.window)
            for name in ('time', 'data_time')
        )
        return float(whole - data)
