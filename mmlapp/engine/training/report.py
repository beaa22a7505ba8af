# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the log and the visualizer are told of a pruning run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn

from mmlapp.core import ChannelPlan, Pruner
from mmlapp.core.progress import Phase

from ..sizes import CHANNELS, left_text, sums_by_kind


def ratios_text(ratios: Mapping[str, float]) -> str:
    """Writes fractions of the dense network.

    Args:
        ratios (Mapping[str, float]): By name of the cost.

    Examples:
        >>> ratios_text({'flops': 0.403, 'parameters': 0.5})
        'flops 40.30 %, parameters 50.00 % of the dense network'
    """
    parts = [f'{name} {100 * ratio:.2f} %' for name, ratio in ratios.items()]
    return f'{", ".join(parts)} of the dense network'


def group_scalars(pruner: Pruner) -> dict[str, float]:
    """Costs, keep ratios and what the method shows of every group.

    Args:
        pruner (Pruner): Of the run.
    """
    ratios, targets = pruner.ratios(), pruner.targets()
    shown = {
        name: values.tolist()
        for name, values in pruner.method.by_group(pruner).items()
    }
    keep = pruner.keep_ratios()
    return {
        # Tags with slashes: TensorBoard puts those that begin alike together.
        **{f'pruning/{n}_ratio': ratios[n] for n in targets},
        **{f'pruning/{n}_target': value for n, value in targets.items()},
        **{f'pruning/keep/{group}': value for group, value in keep.items()},
        **{
            f'pruning/{name}/{group}': value
            for name, values in shown.items()
            for group, value in zip(keep, values, strict=True)
        },
    }


def report_groups(logger: MMLogger, pruner: Pruner) -> None:
    """Writes a table of all groups to the log.

    Args:
        logger (MMLogger): Of the run.
        pruner (Pruner): Of the run.
    """
    heads = pruner.layout.heads
    columns = {
        'group': list(pruner.by_group(pruner.gate)),
        'channels': [
            left_text(len(mask), int(mask.sum()), heads.get(name))
            for name, mask in pruner.by_group(pruner.mask.cpu()).items()
        ],
        'kept': [f'{share:.1%}' for share in pruner.keep_ratios().values()],
    }
    for name, values in pruner.method.by_group(pruner).items():
        columns[name] = [f'{value:.4f}' for value in values.tolist()]
    finished = pruner.phase == Phase.FINISHED
    # A mask that was set from outside has targets, but no schedule.
    asked = pruner.progress.target if finished else pruner.targets()
    ratios = pruner.ratios()
    reached = {name: ratios[name] for name in pruner.progress.target}
    logger.info(
        f'Pruning{" finished" if finished else ""}: {ratios_text(reached)}, '
        f'target {_percent(asked)}\n{aligned(columns)}'
    )


def report_end(logger: MMLogger, pruner: Pruner) -> None:
    """Writes when and why a phase ended that could have ended earlier.

    Args:
        logger (MMLogger): Of the run.
        pruner (Pruner): Of the run.
    """
    known, progress = pruner.stability, pruner.progress
    if known is None:
        return
    found = known.similarity(pruner.sizes)
    early = progress.done < progress.steps
    # Of two epochs: None where there were fewer.
    text = 'fewer epochs' if found is None else f'a similarity of {found:.4f}'
    logger.info(
        f'Pruning: the phase ended {"early, " if early else ""}at step '
        f'{progress.done} of {progress.steps}; the kept channels had {text} '
        f"over the last two epochs, where end='stable' asks for "
        f'{known.end.similarity:g} with the targets met'
    )


def aligned(columns: Mapping[str, Sequence[str]]) -> str:
    """Writes columns below their names: the first to the left.

    Args:
        columns (Mapping[str, Sequence[str]]): Cells by name of the column.

    Examples:
        >>> print(aligned({'group': ['stem', 'a'], 'kept': ['9', '10']}))
        group  kept
        stem      9
        a        10
    """
    first, *others = ([name, *cells] for name, cells in columns.items())
    parts = [_padded(first, str.ljust)]
    parts += [_padded(cells, str.rjust) for cells in others]
    # [columns][cells] -> [cells][columns].
    return '\n'.join('  '.join(row) for row in zip(*parts, strict=True))


def _padded(cells: Sequence[str], pad: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, cells))
    return [pad(cell, width) for cell in cells]


def channels_text(plan: ChannelPlan) -> str:
    """Writes how many channels and heads a plan had, and has.

    Args:
        plan (ChannelPlan): The plan.
    """
    sizes = {name: (k.size, k.count) for name, k in plan.groups.items()}
    sums = sums_by_kind(sizes, plan.heads) if sizes else {CHANNELS: [0, 0]}
    parts = [f'{n} {dense:,} → {left:,}' for n, (dense, left) in sums.items()]
    return f'{" and ".join(parts)} in {len(plan.groups)} groups'


def groups_text(pruner: Pruner) -> str:
    """Writes how many groups, channels and heads may be pruned.

    Args:
        pruner (Pruner): Of the network.
    """
    sizes = {group.name: (group.size,) for group in pruner.groups}
    sums = sums_by_kind(sizes, pruner.layout.heads)
    parts = [f'{count} {name}' for name, (count,) in sums.items()]
    return f'{len(sizes)} groups, {" and ".join(parts)}'


def _percent(ratios: Mapping[str, float]) -> str:
    return ', '.join(f'{100 * value:.2f} %' for value in ratios.values())


def count_parameters(model: nn.Module) -> int:
    """Number of trained and fixed values, shared ones once.

    Args:
        model (nn.Module): The model.
    """
    return sum(p.numel() for p in model.parameters())


def report_narrowing(
    logger: MMLogger, plan: ChannelPlan, before: int, after: int
) -> None:
    """Writes costs and parameters before and after narrowing to the log.

    Args:
        logger (MMLogger): Of the run.
        plan (ChannelPlan): What the model was narrowed to.
        before (int): Its parameters before.
        after (int): Its parameters now.
    """
    costs = [
        f'{name} {cost["dense"]:.4g} → {cost["pruned"]:.4g} '
        f'({cost["pruned"] / cost["dense"]:.2%})'
        for name, cost in plan.costs.items()
        if name != 'parameters'
    ]
    # As they are stored, in place of the plan's own count.
    costs.append(f'parameters {before:,} → {after:,} ({after / before:.2%})')
    costs.append(channels_text(plan))
    logger.info(f'Pruning: the model is narrow now: {", ".join(costs)}')


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
        """Notes the mean of the last steps with masks.

        Args:
            runner (Runner): The runner, right after narrowing.
        """
        self.before, self.begin = self._mean(runner), runner.iter

    def after_step(self, runner: Runner) -> None:
        """Reports once the window is full.

        Args:
            runner (Runner): The runner.
        """
        if self.begin is None or runner.iter - self.begin <= self.window:
            return
        # Here no step of the window had masks.
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
            scalars[f'train/{name}'].data[0] for name in ('time', 'data_time')
        )
        # This step waited for its data, and is not over: one entry more.
        data, last = data[: len(whole)], slice(-self.window, None)
        return float(whole[last].mean() - data[last].mean())
