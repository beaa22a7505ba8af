# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The command line of the tables."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from .jobs import Store, run_all
from .plot import plot
from .rows import TABLES
from .table import BASES, report
from .training import Recipe

RESULTS = Path(__file__).resolve().parents[1] / 'results' / 'accuracy'


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parses the command line."""
    parser = ArgumentParser(
        prog='python benchmarks/accuracy',
        description='Accuracy at a budget: ways to a small network, trained '
        'alike.',
    )
    add = parser.add_argument
    add('table', choices=TABLES)
    add('data', type=Path, nargs='?', help='folder of CIFAR-10; none: report')
    add('--out', type=Path, help='file of the results; what it has is kept')
    add('--rows', nargs='+', metavar='ROW', help='some of the table')
    add('--seeds', type=int, nargs='+', default=[0, 1, 2])
    add('--epochs', type=int, default=30, help='of dense training')
    add('--batch', type=int, default=128)
    add('--rate', type=float, default=0.4, help='highest learning rate')
    add('--decay', type=float, default=5e-4)
    add('--subset', type=int, default=0, help='images of training; 0: all')
    add(
        '--tenth',
        action='store_true',
        help='every tenth image, in the variants of the recipes for few',
    )
    add('--amp', action='store_true', help='bfloat16')
    add(
        '--weights',
        type=Path,
        default='work_dirs/accuracy',
        help='folder for those of teachers',
    )
    add('--device', default='cpu')
    add('--workers', type=int, default=1, help='networks at once')
    add('--seconds', type=float, help='after which what runs is given up')
    add(
        '--minus',
        nargs='+',
        metavar='ROW',
        default=BASES,
        help='rows that the others are compared with',
    )
    add('--plot', type=Path, help='picture of the results')
    args = parser.parse_args(argv)
    args.out = args.out or RESULTS / f'{args.table}.json'
    args.rows = args.rows or list(TABLES[args.table])
    table = list(TABLES[args.table])
    # A table without one of the bases has no such column.
    for argument, known in ('rows', table), ('minus', [*table, *BASES]):
        unknown = set(getattr(args, argument)) - set(known)
        if unknown:
            parser.error(
                f'--{argument} {" ".join(sorted(unknown))}: {args.table} has '
                f'{", ".join(table)}'
            )
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a table, then prints what there is of it."""
    args = parse_args(argv)
    complete = True
    if args.data:
        recipe = Recipe(
            args.epochs,
            args.batch,
            args.rate,
            args.decay,
            args.amp,
            args.subset,
            args.tenth,
        )
        # Without --seconds None, as the deadline is then.
        deadline = args.seconds and time.monotonic() + args.seconds
        complete = run_all(
            args.table,
            args.rows,
            args.seeds,
            recipe,
            args.data,
            Store(args.out, recipe),
            args.weights,
            args.device,
            args.workers,
            deadline,
        )
    print(report(args.table, args.out, args.minus))
    if args.plot:
        plot(args.table, args.out, args.plot)
    sys.exit(not complete)
