# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a page shows of a run: its records, looked at from several sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmlapp.core.groups import FrozenChannels

from ..sizes import CHANNELS, HEADS
from .run import Points, Run

# Of what a method shows of its groups, what is compared with scores.
THRESHOLD = 'threshold'


@dataclass(frozen=True)
class CostPath:
    """A cost over the run, as a share of that of the dense network.

    Args:
        name (str): Of the cost.
        ratio (Points): What was left of it.
        target (Points): What was asked for.
    """

    name: str
    ratio: Points
    target: Points


@dataclass(frozen=True)
class LayerWidths:
    """How wide a layer was, and is.

    Args:
        name (str): Of the layer.
        inputs (tuple[int, int], optional): Dense and now; None where they
            are those of one of several groups.
        outputs (tuple[int, int]): Dense and now.
        over (Points): Outputs over iterations, as a share of the dense ones.
    """

    name: str
    inputs: tuple[int, int] | None
    outputs: tuple[int, int]
    over: Points

    @property
    def share(self) -> float:
        """Share of the outputs that is left."""
        dense, now = self.outputs
        return now / dense if dense else 1.0


@dataclass(frozen=True)
class GroupScores:
    """The scores of a group over the phase, and the threshold among them.

    Args:
        name (str): Of the group.
        channels (tuple[int, int]): Dense and now; heads if it has these.
        kind (str): ``heads``, or empty for channels.
        iters (list[int]): When they were noted.
        scores (list[list[float]]): Quantiles at each of them.
        threshold (list[float]): Likewise, NaN where it is not known.
    """

    name: str
    channels: tuple[int, int]
    kind: str
    iters: list[int]
    scores: list[list[float]]
    threshold: list[float]


def losses(run: Run) -> dict[str, Points]:
    """Returns the losses of training, the sum of all first.

    Args:
        run (Run): What was read.
    """
    found = {n: p for n, p in run.training.items() if 'loss' in n}
    # False before True, and otherwise as they were: the sum, then its parts.
    return {n: found[n] for n in sorted(found, key=lambda n: n != 'loss')}


def costs(run: Run) -> list[CostPath]:
    """Returns the costs that have a target, from the beginning to the end.

    Args:
        run (Run): What was read.
    """
    names = dict.fromkeys(n for s in run.states for n in s['targets'])
    return [
        CostPath(
            name,
            _path(run, 'ratios', name),
            _path(run, 'targets', name),
        )
        for name in names
    ]


def _path(run: Run, key: str, name: str) -> Points:
    found = [
        (float(s['iter']), float(s[key][name]))
        for s in run.states
        if s[key].get(name) is not None
    ]
    if not found:
        return []
    # Dense before the phase, if it began here; after it, it stays as it is.
    begin, first = float(run.starts[0][1]), found[0][0]
    # Two points before the phase, so that the line is level at 1 and then
    # falls, instead of sloping down from the start.
    whole = run.states[0].get('done') == 0 and begin < first
    before = [(begin, 1.0), (first, 1.0)] if whole else []
    return [*before, *found, (float(run.last), found[-1][1])]


def phase(run: Run) -> tuple[float, float] | None:
    """Returns the iterations between which the run was pruned.

    Args:
        run (Run): What was read.
    """
    inside = [s['iter'] for s in run.states if s['phase'] == 'pruning']
    if not inside:
        return None
    # A phase that is not over reaches to the last record.
    ends = [s['iter'] for s in run.states if s['phase'] == 'finished']
    return inside[0], min(ends, default=run.last)


def layers(run: Run) -> list[LayerWidths]:
    """Returns the widths of all layers, in order of the network.

    Args:
        run (Run): What was read.
    """
    # widths: [layers][2], inputs and outputs, in the order of the head.
    now = run.states[-1]['widths'] if run.states else None
    return [
        LayerWidths(
            name,
            None if inputs is None else (inputs, _at(now, i, 0, inputs)),
            (outputs, _at(now, i, 1, outputs)),
            [
                # A layer without outputs has lost nothing of them.
                (s['iter'], s['widths'][i][1] / max(outputs, 1))
                for s in run.states
            ],
        )
        for i, (name, inputs, outputs) in enumerate(run.head.get('layers', ()))
    ]


def _at(
    widths: Sequence[Sequence[int]] | None, layer: int, side: int, dense: int
) -> int:
    return dense if widths is None else widths[layer][side]


def channels(run: Run) -> list[tuple[str, int, int]]:
    """Returns every group with its channels, dense and now.

    Args:
        run (Run): What was read.
    """
    groups = run.head.get('groups', [])
    kept = run.states[-1]['kept'] if run.states else [n for _, n in groups]
    return [(n, size, k) for (n, size), k in zip(groups, kept, strict=True)]


def parts(run: Run) -> list[LayerWidths]:
    """Returns what is left of the groups that no width tells.

    Args:
        run (Run): What was read.

    Returns:
        list[LayerWidths]: Parts of each group as outputs; empty where the
        unit is channels.
    """
    if run.head.get('unit', CHANNELS) == CHANNELS:
        return []
    # Groups whose parts are the outputs of a layer are among the layers.
    told = {layer.name: layer.outputs for layer in layers(run)}
    return [g for g in _groups(run) if told.get(g.name) != g.outputs]


def heads(run: Run) -> list[LayerWidths]:
    """Returns what is left of the groups that consist of heads.

    Args:
        run (Run): What was read.

    Returns:
        list[LayerWidths]: Heads of each group as outputs.
    """
    known = run.head.get('heads', {})
    return [group for group in _groups(run) if group.name in known]


def _groups(run: Run) -> list[LayerWidths]:
    """All groups, with their parts as outputs."""
    return [
        LayerWidths(
            name,
            None,
            (size, kept),
            [(s['iter'], s['kept'][i] / max(size, 1)) for s in run.states],
        )
        for i, (name, size, kept) in enumerate(channels(run))
    ]


def thresholds(run: Run) -> list[GroupScores]:
    """Returns the scores of all groups and their thresholds over the phase.

    Args:
        run (Run): What was read.

    Returns:
        list[GroupScores]: Empty if the method has no thresholds.
    """
    known = [s for s in run.states if THRESHOLD in s.get('shown', {})]
    if not known:
        return []
    return [
        GroupScores(
            name,
            (size, kept),
            HEADS if name in run.head.get('heads', {}) else '',
            [s['iter'] for s in known],
            [[_number(value) for value in s['scores'][i]] for s in known],
            [_number(s['shown'][THRESHOLD][i]) for s in known],
        )
        for i, (name, size, kept) in enumerate(channels(run))
    ]


def others_shown(run: Run) -> dict[str, list[tuple[float, float]]]:
    """Returns what else the method shows, at first and at last.

    Args:
        run (Run): What was read.

    Returns:
        dict[str, list[tuple[float, float]]]: A pair for every group, by what
        it is.
    """
    known = [s['shown'] for s in run.states if s.get('shown')]
    if not known:
        return {}
    return {
        name: [
            (_number(first), _number(last))
            # One value per group, [groups], in the first and in the last
            # record.
            for first, last in zip(
                known[0][name], known[-1][name], strict=True
            )
        ]
        for name in known[0]
        if name != THRESHOLD
    }


def frozen(run: Run) -> list[FrozenChannels] | None:
    """Returns what was left whole, and why; None if that is not known.

    Args:
        run (Run): What was read.
    """
    found: Any = run.head.get('frozen')
    return None if found is None else [FrozenChannels(*f) for f in found]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
