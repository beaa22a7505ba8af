# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The file in which a run notes what was pruned when, and why not.

One JSON object a line, in the folder of the log. A resumed run has a folder
and so a file of its own, which begins with where it goes on. MMEngine calls
the folder by the second of the start: of several that begin in one, each has
a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from torch import Tensor, nn

from mmlapp.core import ChannelPlan, Pruner
from mmlapp.core.files import json_text
from mmlapp.core.progress import Phase, Progress

from ..models.shared_names import FirstNames
from ..run_end import end_of_training
from .parts import unwrap
from .run_settings import plain

NAME, FURTHER, VERSION = 'pruning.jsonl', 'pruning_{}.jsonl', 1
# Records of a phase at most: evenly over its steps, whatever its length.
POINTS = 100
# What is noted of the scores of a group: these quantiles.
SHARES = 0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0
# What a run was asked for, as far as it is noted.
SETTINGS = (
    'scope',
    'keep_streams',
    'bypass',
    'method',
    'score',
    'normalisation',
    'divisor',
    'min_keep',
)


@dataclass(frozen=True)
class LayerSize:
    """Where the width of a layer is read from its weight.

    Args:
        name (str): Of the layer.
        weight (str): First name of its weight, which tied layers share.
        outputs (int): Dimension of the weight that counts outputs.
        inputs (int, optional): Dimension that counts inputs; None where it
            counts those of one of several groups.
    """

    name: str
    weight: str
    outputs: int
    inputs: int | None

    def of(
        self, plan: ChannelPlan, dense: bool = False
    ) -> tuple[int | None, int]:
        """Returns inputs and outputs under a plan.

        Args:
            plan (ChannelPlan): What is kept.
            dense (bool): Those of the dense network instead. Defaults to
                False.
        """
        # Sizes of the dense weight, less what the plan cuts along a dimension.
        cut = {} if dense else plan.slices.get(self.weight, {})

        def width(dim: int) -> int:
            kept = cut.get(dim)
            return (
                plan.shapes[self.weight][dim] if kept is None else kept.count
            )

        inputs = None if self.inputs is None else width(self.inputs)
        return inputs, width(self.outputs)


def layer_sizes(
    model: nn.Module, shapes: Mapping[str, Sequence[int]]
) -> list[LayerSize]:
    """Returns the layers of a network whose widths are noted.

    Args:
        model (nn.Module): The network, dense, masked or narrow.
        shapes (Mapping[str, Sequence[int]]): Of the dense network's tensors.
    """
    found, first = [], FirstNames(model)
    for name, module in model.named_modules():
        if len(shapes.get(f'{name}.weight', ())) > 1:
            # [in, out / groups, ...] where it is transposed.
            turned = getattr(module, 'transposed', False)
            whole = getattr(module, 'groups', 1) == 1
            outputs, inputs = (1, 0) if turned else (0, 1)
            weight = first(f'{name}.weight')
            found.append(
                LayerSize(name, weight, outputs, inputs if whole else None)
            )
    return found


def is_due(progress: Progress) -> bool:
    """Whether the step that was just done is among those that are noted.

    Args:
        progress (Progress): Of the phase.

    Examples:
        >>> steps = [Progress(Phase.PRUNING, n, 250) for n in range(251)]
        >>> [p.done for p in steps if is_due(p)][:4]
        [0, 3, 5, 8]
        >>> sum(map(is_due, steps))
        101
    """
    # A record falls between done - 1 and done where 100 done / steps passes a
    # whole number: for 250 steps at 2.5 k, rounded up.
    done, steps = progress.done, max(progress.steps, 1)
    return done == 0 or done * POINTS // steps > (done - 1) * POINTS // steps


class RunHistory:
    """Notes the widths, costs, thresholds and scores of a run.

    At most :data:`POINTS` times in a phase. All processes find out what there
    is to note, for a method may ask the others; the main one writes it.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._layers: list[LayerSize] = []
        self._last: tuple[int, Phase] | None = None

    def open(self, runner: Runner, source: Pruner | ChannelPlan) -> None:
        """Notes what is pruned, and where it stands as training begins.

        Args:
            runner (Runner): The runner of the training process.
            source (Pruner or ChannelPlan): What prunes the model, or what it
                was narrowed to.
        """
        if is_main_process():
            self._path = _new_file(Path(runner.log_dir))
        plan = plan_of(source)
        self._layers = layer_sizes(unwrap(runner.model), plan.shapes)
        dense = [
            [layer.name, *layer.of(plan, dense=True)] for layer in self._layers
        ]
        entry = {
            'kind': 'run',
            'version': VERSION,
            'iter': runner.iter,
            'max_iters': end_of_training(runner),
            **subject_of(source),
            'layers': dense,
        }
        self._write(runner, entry)
        # Before the phase there is nothing to tell: all is as in the dense
        # network.
        if not isinstance(source, Pruner) or source.phase != Phase.DENSE:
            self._note(runner, runner.iter, source)

    def note(self, runner: Runner, pruner: Pruner, iters: int) -> None:
        """Notes where pruning stands, if it is time to.

        Args:
            runner (Runner): The runner of the training process.
            pruner (Pruner): Of its model, within its phase or at its end.
            iters (int): Iterations that were done.
        """
        # Gradients may be accumulated: several iterations stand at one step.
        place = pruner.progress.done, pruner.phase
        due = is_due(pruner.progress) or pruner.phase == Phase.FINISHED
        if due and place != self._last:
            self._last = place
            self._note(runner, iters, pruner)

    def close(self, runner: Runner) -> None:
        """Notes that training came to its end.

        Args:
            runner (Runner): The runner, at the end of its training.
        """
        self._write(runner, {'kind': 'end', 'iter': runner.iter})

    def _note(
        self, runner: Runner, iters: int, source: Pruner | ChannelPlan
    ) -> None:
        plan = plan_of(source)
        entry = {
            'kind': 'state',
            'iter': iters,
            **state_of(source),
            'kept': [kept.count for kept in plan.groups.values()],
            'widths': [layer.of(plan) for layer in self._layers],
        }
        self._write(runner, entry)

    def _write(self, runner: Runner, entry: Mapping[str, Any]) -> None:
        """Appends one line; a run does not end for want of it."""
        if self._path is None:
            return
        text = json_text(entry)
        try:
            with self._path.open('a', encoding='utf-8') as file:
                file.write(text + '\n')
        except OSError as error:
            runner.logger.warning(
                f'Pruning: {self._path} cannot be written '
                f'({error.strerror}): the run goes on, and what it prunes is '
                'noted no more'
            )
            self._path = None


def _new_file(folder: Path) -> Path:
    """Makes a file that no other run writes into."""
    for number in count(1):
        path = folder / (NAME if number == 1 else FURTHER.format(number))
        try:
            path.open('x').close()
        except FileExistsError:
            continue
        except OSError:
            break  # who writes into it says so
        break
    return path


def history_files(folder: Path) -> list[Path]:
    """Returns what runs noted in a folder of the log, in order.

    Args:
        folder (Path): By the time of their starts.
    """
    further = folder.glob(FURTHER.format('[0-9]*'))
    found = [folder / NAME, *sorted(further, key=lambda p: (len(p.name), p))]
    return [path for path in found if path.is_file()]


def plan_of(source: Pruner | ChannelPlan) -> ChannelPlan:
    """Returns what is kept at this moment.

    Args:
        source (Pruner or ChannelPlan): What prunes a model, in any phase and
            then without its costs, or what it was narrowed to.
    """
    if isinstance(source, ChannelPlan):
        return source
    mask = source.mask.cpu()
    # No costs, which ratios tell and which take time.
    return source.layout.plan(mask, source.by_group(mask), {})


def subject_of(source: Pruner | ChannelPlan) -> dict[str, Any]:
    """Returns what a run prunes, and what it leaves alone.

    Args:
        source (Pruner or ChannelPlan): As for :func:`plan_of`; a plan does
            not know what was left alone.
    """
    if isinstance(source, ChannelPlan):
        groups = [[name, kept.size] for name, kept in source.groups.items()]
        return {
            'unit': source.unit,
            'groups': groups,
            'heads': dict(source.heads),
        }
    said = source.settings
    return {
        'unit': source.layout.unit,
        'settings': {n: plain(said[n]) for n in SETTINGS if n in said},
        'groups': [[group.name, group.size] for group in source.groups],
        'heads': dict(source.layout.heads),
        'frozen': [list(entry) for entry in source.frozen],
    }


def state_of(source: Pruner | ChannelPlan) -> dict[str, Any]:
    """Returns costs, scores, and what the method shows of every group.

    Args:
        source (Pruner or ChannelPlan): As for :func:`plan_of`, within the
            phase or after it; a plan knows of the costs alone.
    """
    if isinstance(source, ChannelPlan):
        return {
            'phase': Phase.FINISHED.name.lower(),
            'ratios': _rounded(source.ratios()),
            'targets': _rounded(source.targets()),
        }
    progress = source.progress
    finished = source.phase == Phase.FINISHED
    shown = source.method.by_group(source)
    return {
        'phase': source.phase.name.lower(),
        'done': progress.done,
        'steps': progress.steps,
        'ratios': _rounded(source.ratios()),
        'targets': _rounded(progress.target if finished else source.targets()),
        'shown': {name: _numbers(v.tolist()) for name, v in shown.items()},
        'scores': [_numbers(row) for row in score_quantiles(source).tolist()],
    }


def score_quantiles(pruner: Pruner) -> Tensor:
    """Returns how the scores of every group are distributed.

    Args:
        pruner (Pruner): Of a network.

    Returns:
        Tensor: Scores that :data:`SHARES` of the group's do not exceed;
        ``[groups, shares]``.
    """
    parts = pruner.parts
    # Scores of every group, the smallest first; [channels].
    scores = pruner.scores[parts.order(pruner.scores)]
    # Of five channels a quarter lies at place 1: 0.25 of 0 to 4.
    places = [((parts.count - 1) * share).round().long() for share in SHARES]
    return torch.stack([parts.at(scores, place) for place in places], dim=1)


def _numbers(values: Iterable[float]) -> list[float | None]:
    """Six digits of each; None for what JSON has no number for."""
    return [float(f'{v:.6g}') if math.isfinite(v) else None for v in values]


def _rounded(values: Mapping[str, float]) -> dict[str, float | None]:
    return dict(zip(values, _numbers(values.values()), strict=True))
