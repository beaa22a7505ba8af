# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a benchmark says: tables, JSON and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.table import Table

from mmlapp.core import PruningError

from ..analysis.tables import short_number
from ..latency.setting import Setting, difference
from ..latency.tables import milliseconds
from ..output_files import write_output
from .networks import Prediction
from .rows import OK, Row

NOISE = 'too noisy'
COLUMNS = (
    'MB',
    'parameters',
    'GMACs',
    'left',
    'error',
    'same class',
    'accuracy',
    'ms',
    'p90',
    'images/s',
    'speed-up',
    'factor',
)


def rows_table(rows: Sequence[Row]) -> Table:
    """Returns the table of a benchmark.

    Args:
        rows (Sequence[Row]): What was measured.
    """
    table = Table()
    for name in ('backend', 'network'):
        table.add_column(name, no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify='right', no_wrap=True)
    for row in rows:
        table.add_row(row.backend, row.name, *cells(row))
    return table


def cells(row: Row) -> list[str]:
    """Returns what a table shows of a row, by :data:`COLUMNS`.

    Args:
        row (Row): The row.
    """
    claims = [_claim(row, value) for value in (row.speed_up, row.factor)]
    return [
        f'{row.megabytes:.1f}',
        short_number(row.parameters),
        f'{row.macs / 1e9:.3g}',
        f'{row.share:.1%}',
        _optional(row.error, '.1e'),
        _optional(row.agreement, '.1%'),
        _optional(row.accuracy, '.4g'),
        '' if row.median is None else milliseconds(row.median),
        '' if row.p90 is None else milliseconds(row.p90),
        _optional(row.images_per_second, '.1f'),
        *claims,
    ]


def _optional(value: float | None, form: str) -> str:
    return '' if value is None else format(value, form)


def _claim(row: Row, value: float | None) -> str:
    """A number, or why there is none."""
    if value is None:
        return 'failed' if row.status != OK else NOISE
    return f'{value:.2f}'


def failures(rows: Sequence[Row]) -> list[str]:
    """Returns what failed, a line each.

    Args:
        rows (Sequence[Row]): What was measured.
    """
    return [
        f'{row.name} on {row.backend} failed: {row.status}'
        for row in rows
        if row.status != OK
    ]


def prediction_text(
    prediction: Prediction, rows: Sequence[Row], setting: Setting
) -> str:
    """Returns predicted against measured latency of the slim network.

    Args:
        prediction (Prediction): Of the budget.
        rows (Sequence[Row]): What was measured.
        setting (Setting): With the backend of the table.
    """
    said = f'latency: predicted {prediction.ratio:.1%} of the dense network'
    # What both say: a table has more, such as the size of its images.
    here = setting.described()
    differs = difference(
        {key: prediction.setting.get(key) for key in here}, here
    )
    if differs:
        return f'{said}; the table is of something else ({differs})'
    # No time is compared with that of a masked network.
    pair = [
        row
        for row in rows
        if row.backend == setting.backend and row.name != 'masked'
    ]
    slim = next((row for row in pair if row.name == 'slim'), None)
    if slim is not None and slim.speed_up is not None:
        # A speed-up of 2 is half the time.
        return f'{said}, measured {1 / slim.speed_up:.1%}'
    failed = failures(pair)
    if failed:
        return f'{said}; not measured: {failed[0]}'
    if slim is None:
        return f'{said}; not measured'
    return f'{said}; what was measured is too noisy'


def to_dict(
    rows: Sequence[Row],
    settings: Sequence[Setting],
    notes: Sequence[str],
    prediction: Prediction | None,
    layers: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Returns all of a benchmark as plain numbers and texts.

    Args:
        rows (Sequence[Row]): What was measured.
        settings (Sequence[Setting]): How.
        notes (Sequence[str]): What to know of it.
        prediction (Prediction, optional): Of the budget.
        layers (Mapping): Seconds by layer and network.
    """
    return {
        'settings': [setting.described() for setting in settings],
        'notes': list(notes),
        # A property is no field, and asdict leaves it out.
        'rows': [{**asdict(row), 'noisy': row.noisy} for row in rows],
        'prediction': None if prediction is None else asdict(prediction),
        'layers': {name: dict(each) for name, each in layers.items()},
    }


def layers_table(layers: Mapping[str, Mapping[str, float]]) -> Table:
    """Returns the times of all layers, and what is left of the first one.

    Args:
        layers (Mapping): Seconds by layer and network.
    """
    names = list(dict.fromkeys(n for each in layers.values() for n in each))
    table = Table()
    table.add_column('layer', overflow='fold')
    for name in (*(f'{name}, ms' for name in names), 'last over first'):
        table.add_column(name, justify='right', no_wrap=True)
    for layer, times in layers.items():
        ratio = ''
        if names[0] in times and names[-1] in times:
            # A clock may see no time at all in a small layer.
            ratio = f'{times[names[-1]] / max(times[names[0]], 1e-12):.2f}'
        table.add_row(
            layer,
            *(milliseconds(times[n]) if n in times else '' for n in names),
            ratio,
        )
    return table


def check_picture(path: str | Path) -> str:
    """Returns the format of a picture, before all else is done.

    Args:
        path (str or Path): The file; its suffix tells the format, none is
            PNG.

    Raises:
        PruningError: If matplotlib is missing or cannot write the format.
    """
    if find_spec('matplotlib') is None:
        raise PruningError(
            'plot: it needs matplotlib, which is not installed: pip install '
            'matplotlib'
        )
    from matplotlib.backend_bases import FigureCanvasBase

    kind = Path(path).suffix.lstrip('.').lower() or 'png'
    known = FigureCanvasBase.get_supported_filetypes()
    if kind not in known:
        raise PruningError(
            f'plot={str(path)!r}: choose one of the types {", ".join(known)}'
        )
    return kind


def draw(rows: Sequence[Row], path: str | Path, title: str) -> None:
    """Draws medians as bars, with p90 as a whisker.

    Args:
        rows (Sequence[Row]): What was measured.
        path (str or Path): The file; its suffix tells the format.
        title (str): Above the picture.

    Raises:
        PruningError: As :func:`check_picture`, or if the file cannot be
            written.
    """
    kind = check_picture(path)
    # Without pyplot, which would ask for a display.
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.median is not None]
    figure = Figure(figsize=(7, 0.6 + 0.4 * len(shown)), layout='constrained')
    axes = figure.subplots()
    labels = [f'{row.backend}, {row.name}' for row in shown]
    names = list(dict.fromkeys(row.name for row in shown))
    medians = [1e3 * (row.median or 0) for row in shown]
    spread = [1e3 * ((row.p90 or 0) - (row.median or 0)) for row in shown]
    axes.barh(
        labels,
        medians,
        # Whiskers to the right alone: [2, rows], below and above the median.
        xerr=[[0] * len(shown), spread],
        color=[f'C{names.index(row.name)}' for row in shown],
    )
    # Bars grow from below, tables read from above.
    axes.invert_yaxis()
    axes.set_xlabel('median, ms; the whisker ends at p90')
    axes.set_title(title, fontsize='medium')
    write_output('plot', path, lambda f: figure.savefig(f, format=kind))
