# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Measure how long the layers of a model take on this device.

The table is what `dict(type='latency', table=OUT)` among the `costs` of a
pruning config counts from. Weights do not matter, so that no checkpoint is
read. A call that was stopped goes on where it was.

Examples:
    python tools/latency_table.py CONFIG --out r18.json
    python tools/latency_table.py CONFIG --out r18.json --backend onnxruntime
    python tools/latency_table.py CONFIG --out r18.json --threads 4 --batch 8
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from mmengine.config import Config
from rich.progress import Progress

from mmlapp.core.methods.budget import check_divisor
from mmlapp.engine.config_files import (
    add_config_arguments,
    add_pruning_arguments,
    given,
    read_model_config,
)
from mmlapp.engine.deployment.recipe import own_settings
from mmlapp.engine.failures import tells_failures
from mmlapp.engine.known_notes import known_notes_hidden
from mmlapp.engine.latency.layers import BACKENDS
from mmlapp.engine.latency.measure import latency_table
from mmlapp.engine.latency.part import (
    check_batch,
    origin_of_shape,
    subject_of,
)
from mmlapp.engine.latency.setting import Setting, usual_divisor
from mmlapp.engine.latency.subject import Procedure
from mmlapp.engine.latency.tables import layers_table, networks_table, remarks
from mmlapp.engine.models.inputs import shape_text
from mmlapp.engine.output_files import check_apart
from mmlapp.engine.terminal import console


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parses the command line."""
    parser = ArgumentParser(
        description='Measure how long the layers of a model take here.'
    )
    add_config_arguments(parser)
    add = parser.add_argument
    add('--out', type=Path, required=True, metavar='FILE', help='the table')
    add('--backend', choices=list(BACKENDS), default='torch')
    add('--threads', type=int, default=1, metavar='N')
    add('--batch', type=int, default=1, metavar='N', help='images at once')
    add('--device', choices=['cpu', 'cuda'], default='cpu')
    add(
        '--points',
        type=int,
        default=Procedure.points,
        metavar='N',
        help='widths of each dimension (default: %(default)s)',
    )
    add(
        '--rounds',
        type=int,
        default=Procedure.rounds,
        metavar='N',
        help='timed calls at each width (default: %(default)s)',
    )
    add(
        '--divisor',
        type=int,
        metavar='N',
        help='what measured widths are multiples of; that of the config, or '
        'where it has none 16 for CPUs with AVX-512 and 8 for others',
    )
    add_pruning_arguments(parser)
    add('--force', action='store_true', help='measure anew')
    return parser.parse_args(argv)


def divisor_of(args: Namespace, cfg: Config) -> int:
    """Returns what widths are multiples of."""
    if args.divisor is not None:
        return args.divisor
    own = own_settings(cfg.model)['divisor']
    return own if check_divisor(own) > 1 else usual_divisor(args.device)


def stamp(path: Path) -> int | None:
    """Returns what changes whenever a file is written; None without it."""
    # A file is written under another name first: it is a new one each time.
    return path.stat().st_ino if path.is_file() else None


def written(path: Path, before: int | None) -> str:
    """Says whether a table is new."""
    if stamp(path) == before:
        return f'{path} was there, and was not measured again without --force'
    return f'wrote {path}'


@known_notes_hidden()
@tells_failures
def main(argv: Sequence[str] | None = None) -> None:
    """Measures."""
    args = parse_args(argv)
    check_apart('out', args.out, [args.config])
    with Progress(console=console(sys.stderr)) as progress:
        task = progress.add_task('reading the config', total=None)

        def tell(done: int, total: int, text: str) -> None:
            progress.update(
                task, completed=done, total=total, description=text
            )

        # Importing models and datasets prints; standard output is for
        # results.
        with redirect_stdout(sys.stderr):
            cfg = read_model_config(args.config, args.cfg_options)
            procedure = Procedure(
                Setting(args.backend, args.threads, args.batch, args.device),
                args.points,
                args.rounds,
                divisor_of(args, cfg),
            )
            asked = given(args, ('scope', 'input_shape'))
            subject = subject_of(cfg, asked)
            check_batch(subject, args.batch)
            before = stamp(args.out)
            table = latency_table(
                subject, procedure, args.out, args.force, tell
            )
    out = console()
    out.print(layers_table(table))
    out.print(networks_table(table))
    size = shape_text(table.setting['input_shape'])
    out.print(f'images of {size}, {origin_of_shape(cfg, asked)}')
    for text in remarks(table):
        out.print(text)
    out.print(written(args.out, before), soft_wrap=True)


if __name__ == '__main__':
    main()
