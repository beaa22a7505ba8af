# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The results of the zoo as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
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
    blind = not row['errors'] or not row['effect'] >= 100 * TOLERANCE
    return not (blind or differs(row))


def differs(row: Row) -> bool:
    """Whether masked and narrowed network differed on any input."""
    # Not `>`: NaN is no agreement.
    return not all(e <= TOLERANCE for e in row['errors'].values())


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
mmpretrain, four transformers, and one for every backbone type in those of
mmdet. Classifiers are pruned everywhere, detectors in their backbone,
recursive ones in backbone and neck. Made by

    python benchmarks/zoo --json docs/zoo.json
"""
OWN = """{about}
Made by

    python benchmarks/zoo {source} --json {out}
"""
UNTITLED = '# Networks, measured'
MEASURE = f"""All weights and statistics are random. Half of the channels of
every group is removed at random, then a random share between 10 % and 80 % of
each; the masked network is compared with the narrowed one, also at another
size of image. A comparison counts only if the masks changed the outputs by
more than a hundredth. What could not be measured is told behind the table.

- **FLOPs**: multiply-adds of the whole network at the size of the measure.
- **prunable**: share of the multiply-adds of the convolutions in scope that
  involve a prunable channel; bold below the bar, which is 95 % for networks of
  convolution and BatchNorm and less for others.
- **error**: largest relative error of any output, narrowed against masked; in
  float64 where a remark says so; bold above {TOLERANCE:g}.
- **plan**, **fvcore**: FLOPs of the random plan as a share of the dense ones,
  from the plan and as MMEngine's copy of fvcore counts the narrowed network,
  without layers whose output nobody reads.
- **parameters off**: how many parameters of the narrowed network the plan
  has too many or too few.
- **backward**: whether gradients through the narrowed network in training
  mode are finite: those of its outputs, or of its losses where a remark says
  so.
- **analysis**, **narrowing**: processor seconds, on one thread; **memory**:
  peak of the analysis above that of the model.
"""


def own_introduction(text: str, source: str, out: str) -> str:
    r"""Introduces a list of networks in the words that it begins with.

    Args:
        text (str): The list. Comments before its first other line tell what
            the networks are: a title, then Markdown.
        source (str): Where the list is.
        out (str): Where the results are.

    Examples:
        >>> text = '# Mine\n#\n# All.\n\n# Edges are 64.\na.py 64'
        >>> own_introduction(text, 'my.txt', 'my.json').splitlines()[:5]
        ['# Mine', '', 'All.', '', 'Made by']
    """
    lines = takewhile(lambda line: line.startswith('#'), text.splitlines())
    words = [line.removeprefix('#').removeprefix(' ') for line in lines]
    about = [f'# {words[0]}', *words[1:]] if words else [UNTITLED]
    return OWN.format(about='\n'.join(about) + '\n', source=source, out=out)


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
    ]
    for title, key, item in PARTS:
        found = [
            f'- {row["name"]}: {item(row[key])}' for row in rows if row[key]
        ]
        lines += [f'## {title}', '', *found, ''] if found else []
    return '\n'.join(lines)


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _frozen(counts: Mapping[str, int]) -> str:
    reasons = list(counts.items())
    texts = [f'{reason} ({count})' for reason, count in reasons[:REASONS]]
    if len(reasons) > REASONS:
        rest = sum(count for _, count in reasons[REASONS:])
        texts.append(f'{len(reasons) - REASONS} other reasons ({rest})')
    return '; '.join(texts)


# What is told of single networks: title, key of the row, text of its value.
PARTS: list[tuple[str, str, Callable[[Any], str]]] = [
    ('What failed', 'failed', '`{}`'.format),
    ('Channels that stay', 'frozen', _frozen),
    ('Remarks', 'notes', '; '.join),
]


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
    text = f'{max(errors):.1g}' if errors else ''
    return f'**{text}**' if differs(row) else text


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
