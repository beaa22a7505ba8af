# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The command line of the measure, with a progress bar."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from rich.progress import MofNCompleteColumn, Progress

from mmlapp.core import PruningError
from mmlapp.core.files import replace_text
from mmlapp.engine.terminal import console

from .networks import NETWORKS, Entry, read_list
from .run import Row, preload, run_all
from .table import BUILT_IN, markdown, own_introduction, summary


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parses the command line."""
    parser = ArgumentParser(
        prog='python benchmarks/zoo',
        description='Prune many networks at random: do they run, agree and '
        'shrink?',
    )
    parser.add_argument(
        'list',
        nargs='?',
        metavar='LIST',
        help='a file with lines of CONFIG [SIZE [SCOPE [BAR]]], where CONFIG '
        'may be torchvision::NAME or timm::NAME too; comments in front say '
        'what they are (default: one of every family that the installed '
        'mmpretrain and mmdet have)',
    )
    parser.add_argument(
        '--json',
        type=Path,
        required=True,
        metavar='FILE',
        help='where the results go and, as Markdown, beside it; what ran to '
        'the end according to it is not measured again',
    )
    parser.add_argument(
        '--time-limit',
        type=float,
        default=900,
        metavar='SECONDS',
        help='for each network (default: 900)',
    )
    return parser.parse_args(argv)


def listed(source: str | None, out: Path) -> tuple[list[Entry], str]:
    """The networks of a file, or those that are built in, and what they are.

    Args:
        source (str, optional): The file.
        out (Path): Where the results go.
    """
    if source is None:
        return NETWORKS, BUILT_IN
    try:
        text = Path(source).read_text('utf-8')
        return read_list(text), own_introduction(text, source, str(out))
    except (PruningError, OSError) as error:
        sys.exit(f'error: {source}: {error}')


def measure_all(
    entries: Sequence[Entry], out: Path, limit: float
) -> list[Row]:
    """As :func:`run_all`, with a progress bar."""
    columns = *Progress.get_default_columns(), MofNCompleteColumn()
    with Progress(*columns, console=console(sys.stderr)) as bar:
        task = bar.add_task('importing', total=len(entries))
        # Importing models prints; standard output is for the summary.
        with redirect_stdout(sys.stderr):
            preload(entries)
        rows = run_all(
            entries,
            out,
            limit,
            lambda name, i: bar.update(task, description=name, completed=i),
        )
        bar.update(task, completed=len(entries))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes the table and counts what holds."""
    args = parse_args(argv)
    entries, introduction = listed(args.list, args.json)
    rows = measure_all(entries, args.json, args.time_limit)
    replace_text(args.json.with_suffix('.md'), markdown(rows, introduction))
    print(summary(rows))
