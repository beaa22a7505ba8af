# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is said of a run before its pictures, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ..sizes import CHANNELS, cost_name, sums_by_kind
from . import views
from .run import Run

PHASES = {
    None: 'nothing was noted of pruning',
    'dense': 'its pruning phase had not begun',
    'pruning': 'within its pruning phase',
    'finished': 'pruned',
}


def width_text(widths: tuple[int, int]) -> str:
    """Widths, dense and now.

    Args:
        widths (tuple[int, int]): Both.

    Examples:
        >>> width_text((96, 33)), width_text((64, 64))
        ('96 → 33', '64')
    """
    dense, now = widths
    return f'{dense:,}' if dense == now else f'{dense:,} → {now:,}'


def status(run: Run) -> str:
    """Says in a sentence how far a run came.

    Args:
        run (Run): What was read.
    """
    # 'Training ended at iteration 900; pruned.': the phase comes last.
    text = PHASES[run.phase]
    if run.phase == 'pruning':
        state = run.states[-1]
        text += f', step {state["done"]} of {state["steps"]}'
    if run.end is not None:
        return f'Training ended at iteration {run.end:,}; {text}.'
    most = run.head.get('max_iters')
    of = f' of {most:,}' if most else ''
    # Only a run with a hook of ours notes its end.
    told = 'it runs, or was stopped' if run.head else 'whether it ended is not'
    known = told if run.head else f'{told} noted'
    return f'Last record at iteration {run.last:,}{of}: {known}; {text}.'


def warnings_of(run: Run) -> Iterator[str]:
    """Yields what to know before the rest is read.

    Args:
        run (Run): What was read.
    """
    for name, points in {**run.training, **run.validation}.items():
        bad = sum(not math.isfinite(y) for _, y in points)
        if bad:
            yield f'{name} is not finite in {bad} of {len(points)} records'
    if run.broken:
        yield (
            f'{run.broken} lines of the logs could not be read, as where a '
            'process was killed while it wrote'
        )


def facts(run: Run) -> Iterator[tuple[str, str]]:
    """Yields what was asked for and what was reached, by name.

    Args:
        run (Run): What was read.
    """
    for name, value in run.head.get('settings', {}).items():
        yield name, setting_text(value)
    yield from _costs(run)
    found = views.channels(run)
    if found:
        sums = sums_by_kind(
            # How many groups there are is a sum of ones.
            {name: (1, dense, now) for name, dense, now in found},
            run.head.get('heads', {}),
            run.head.get('unit', CHANNELS),
        )
        for kind, (count, dense, now) in sums.items():
            yield f'{kind} of {count} groups', width_text((dense, now))
    for name, points in run.validation.items():
        values = [y for _, y in points if math.isfinite(y)]
        if values:
            said = f'{values[-1]:.5g} at last, highest {max(values):.5g}'
            yield name, said


def _costs(run: Run) -> Iterator[tuple[str, str]]:
    """What is left of every cost that was counted, with its target or not."""
    # Of the last record, if there is one.
    for state in run.states[-1:]:
        for name, ratio in state['ratios'].items():
            target = state['targets'].get(name)
            asked = '' if target is None else f', target {target:.2%}'
            left = 'not finite' if ratio is None else f'{ratio:.2%} of dense'
            yield f'{cost_name(name)} left', left + asked


def setting_text(value: object) -> str:
    """A setting as a person would write it.

    Args:
        value (object): As it was noted.

    Examples:
        >>> setting_text({'type': 'lapp', 'update': {'type': 'balance'}})
        'lapp (update=balance)'
    """
    if isinstance(value, Mapping):
        rest = [
            f'{k}={setting_text(v)}' for k, v in value.items() if k != 'type'
        ]
        head = str(value.get('type', ''))
        return f'{head} ({", ".join(rest)})' if rest else head
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ', '.join(map(setting_text, value))
    return 'none' if value is None else str(value)
