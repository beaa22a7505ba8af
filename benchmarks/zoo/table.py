# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The results of the zoo as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmlapp.core.compare import DEPLOYED_TOLERANCE as TOLERANCE
from mmlapp.engine.analysis.tables import short_number

Row = Mapping[str, Any]
REASONS = 3


def runs(row: Row) -> bool:
    """Whether every step of the measure ran."""
    return row['failed'] is None


def agrees(row: Row) -> bool:
    """Whether masked and narrowed network agreed on every input.

    Only if the masks had an effect that is far above the tolerance.
    """
    errors = list(row['errors'].values())
    if not errors or row['effect'] < 100 * TOLERANCE:
        return False
    return all(error <= TOLERANCE for error in errors)


def reaches(row: Row) -> bool:
    """Whether the prunable share is at least the bar."""
    return row['share'] is not None and row['share'] >= row['bar']


def summary(rows: Sequence[Row]) -> str:
    """Returns one sentence that counts what holds.

    Args:
        rows (Sequence[Mapping]): One per network.
    """
    counts = [sum(map(test, rows)) for test in (runs, agrees, reaches)]
    return (
        f'{len(rows)} networks: {counts[0]} run all steps, {counts[1]} agree '
        f'to {TOLERANCE:g}, {counts[2]} reach their bar.'
    )


BUILT_IN = """# The model zoo, measured

One network for every kind of convolutional block in the configs of
mmpretrain and for every backbone type in those of mmdet. Classifiers are
pruned everywhere, detectors in their backbone, recursive ones in backbone and
neck. Made by

    python benchmarks/zoo --json docs/zoo.json
"""
OWN = """# Networks, measured

Made by

    python benchmarks/zoo {source} --json {out}
"""
MEASURE = """All weights and statistics are random. Half of the channels of
every group is removed at random, then a random share between 10 % and 80 % of
each; the masked network is compared with the narrowed one, also at another
size of image. A comparison counts only if the masks changed the outputs by
more than a hundredth.

- **FLOPs**: multiply-adds of the whole network at the size of the measure.
- **prunable**: share of the multiply-adds of the convolutions in scope that
  involve a prunable channel; bold below the bar, which is 95 % for networks of
  convolution and BatchNorm and 80 % for others.
- **error**: largest relative error of any output, narrowed against masked.
- **plan**, **fvcore**: FLOPs of the random plan as a share of the dense ones,
  from the plan and as MMEngine's copy of fvcore counts the narrowed network.
- **parameters off**: how many parameters of the narrowed network the plan
  has too many or too few.
- **backward**: whether gradients through the narrowed network in training
  mode are finite.
- **analysis**, **narrowing**: processor seconds, on one thread; **memory**:
  peak of the analysis above that of the model.
"""


def markdown(rows: Sequence[Row], introduction: str = BUILT_IN) -> str:
    """Returns the table and the reasons of what is frozen.

    Args:
        rows (Sequence[Mapping]): One per network.
        introduction (str): What the networks are. Defaults to that of the
            built-in list.
    """
    head = [name for name, _ in COLUMNS]
    lines = [
        introduction,
        MEASURE,
        summary(rows),
        '',
        _line(head),
        _line([':--', *['--:'] * (len(head) - 1)]),
        *(_line([cell(row) for _, cell in COLUMNS]) for row in rows),
        '',
        '## Channels that stay',
        '',
        *(_frozen(row) for row in rows if row['frozen']),
    ]
    notes = [_notes(row) for row in rows if row['notes'] or row['failed']]
    if notes:
        lines += ['', '## Remarks', '', *notes]
    return '\n'.join(lines) + '\n'


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _frozen(row: Row) -> str:
    reasons = list(row['frozen'].items())
    texts = [f'{reason} ({count})' for reason, count in reasons[:REASONS]]
    if len(reasons) > REASONS:
        rest = sum(count for _, count in reasons[REASONS:])
        texts.append(f'{len(reasons) - REASONS} other reasons ({rest})')
    return f'- {row["name"]}: {"; ".join(texts)}'


def _notes(row: Row) -> str:
    texts = [*row['notes'], *([row['failed']] if row['failed'] else [])]
    return f'- {row["name"]}: {"; ".join(texts)}'


def _optional(key: str, form: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row[key]
        return '' if value is None or math.isnan(value) else form.format(value)

    return cell


def _share(row: Row) -> str:
    text = _optional('share', '{:.1%}')(row)
    return text if reaches(row) or not text else f'**{text}**'


def _error(row: Row) -> str:
    errors = row['errors'].values()
    return f'{max(errors):.1g}' if errors else ''


def _flops(row: Row) -> str:
    return '' if row['flops'] is None else short_number(row['flops'])


def _backward(row: Row) -> str:
    return {True: 'yes', False: 'no', None: ''}[row['gradient']]


COLUMNS: list[tuple[str, Callable[[Row], str]]] = [
    ('network', lambda row: row['name']),
    ('FLOPs', _flops),
    ('prunable', _share),
    ('groups', _optional('groups', '{}')),
    ('channels', _optional('channels', '{}')),
    ('error', _error),
    ('plan', _optional('ratio', '{:.2%}')),
    ('fvcore', _optional('counted', '{:.2%}')),
    ('parameters off', _optional('miscounted', '{}')),
    ('backward', _backward),
    ('analysis, s', _optional('trace_s', '{:.1f}')),
    ('narrowing, s', _optional('shrink_s', '{:.2f}')),
    ('memory, MiB', _optional('memory_mib', '{:.0f}')),
]
