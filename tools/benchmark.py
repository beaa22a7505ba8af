# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Measure dense, masked and slim networks side by side on this device.

All take turns in one process, with the same threads. Of detectors the network
is measured: backbone, neck and head, without what makes boxes of it.

Examples:
    python tools/benchmark.py CONFIG work_dirs/NAME/epoch_30.pth
    python tools/benchmark.py deployed/NAME/NAME.py deployed/NAME/NAME.pth \
        --backend torch compile onnxruntime --threads 2 --json speed.json
    python tools/benchmark.py CONFIG CHECKPOINT --profile --plot speed.png
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from mmlapp.engine.benchmark.accuracy import Judge
from mmlapp.engine.benchmark.layer_profile import layer_times
from mmlapp.engine.benchmark.networks import (
    Networks,
    Prediction,
    networks_of,
)
from mmlapp.engine.benchmark.report import (
    check_picture,
    draw,
    failures,
    layers_table,
    prediction_text,
    rows_table,
    to_dict,
)
from mmlapp.engine.benchmark.rows import ROUNDS, Row, bench
from mmlapp.engine.config_files import (
    add_config_arguments,
    check_checkpoint,
    read_model_config,
)
from mmlapp.engine.failures import tells_failures
from mmlapp.engine.known_notes import known_notes_hidden
from mmlapp.engine.latency.backends import BACKENDS
from mmlapp.engine.latency.setting import Setting
from mmlapp.engine.output_files import (
    check_apart,
    check_output,
    write_json,
)
from mmlapp.engine.terminal import console, telling


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parses the command line."""
    parser = ArgumentParser(
        description='Measure dense, masked and slim networks side by side.'
    )
    add_config_arguments(parser)
    add = parser.add_argument
    add(
        'checkpoint',
        nargs='?',
        help='of the pruning run from after its phase, or of the deployed '
        'model; none for the config of another model',
    )
    add('--dense', metavar='FILE', help='weights of the dense model')
    add(
        '--backend',
        nargs='+',
        choices=list(BACKENDS),
        default=[
            name
            for name in BACKENDS
            if name not in ('onnxruntime', 'openvino') or find_spec(name)
        ],
        help='all that are installed by default',
    )
    add('--threads', type=int, default=1, metavar='N')
    add('--batch', type=int, default=1, metavar='N', help='images at once')
    add('--device', choices=['cpu', 'cuda'], default='cpu')
    add(
        '--rounds',
        type=int,
        default=ROUNDS,
        metavar='N',
        help='timed runs of each (default: %(default)s)',
    )
    add(
        '--input-shape',
        nargs=3,
        type=int,
        metavar=('CHANNELS', 'HEIGHT', 'WIDTH'),
        help='of an image; by default that of the budgets of a run, or of the '
        'test data of another model',
    )
    add(
        '--accuracy',
        action='store_true',
        help='evaluate every network on the test data of the config too, '
        'with its test_evaluator; of detectors on images of one size alone',
    )
    add('--profile', action='store_true', help='measure every layer too')
    add('--json', type=Path, metavar='FILE', help='write all of it to FILE')
    add('--plot', type=Path, metavar='FILE', help='draw it')
    # The checkpoint may also come behind the options.
    return parser.parse_intermixed_args(argv)


def trained(args: Namespace) -> list[str]:
    """Returns the names of the networks whose weights are given."""
    names = ['masked', 'slim'] if args.checkpoint is not None else []
    return [*names, 'dense'] if args.dense is not None else names


def check_files(args: Namespace) -> None:
    """Refuses files that cannot be written, before all else."""
    others = [args.config, args.checkpoint, args.dense]
    for name in ('json', 'plot'):
        path = getattr(args, name)
        if path is not None:
            check_output(name, path)
            check_apart(name, path, others)
            others.append(path)
    if args.plot is not None:
        check_picture(args.plot)


@dataclass(frozen=True)
class Measured:
    """All that was found out.

    Args:
        rows (list[Row]): Every network on every backend.
        settings (list[Setting]): One for each backend.
        notes (list[str]): What to know of the rows.
        prediction (Prediction, optional): If latency was a cost.
        layers (dict[str, dict[str, float]]): Seconds by layer and network;
            empty if that was not asked for.
    """

    rows: list[Row]
    settings: list[Setting]
    notes: list[str]
    prediction: Prediction | None
    layers: dict[str, dict[str, float]]


def measure(args: Namespace, tell: Callable[[str], None]) -> Measured:
    """Builds the networks of a command line, and measures them."""
    settings = [
        Setting(name, args.threads, args.batch, args.device)
        for name in args.backend
    ]
    cfg = read_model_config(args.config, args.cfg_options)
    for name in ('checkpoint', 'dense'):
        if getattr(args, name) is not None:
            check_checkpoint(name, getattr(args, name))
    judge = Judge(cfg, trained(args)) if args.accuracy else None
    found = networks_of(
        cfg, args.checkpoint, args.dense, args.input_shape, args.batch
    )
    for candidate in found.candidates:
        candidate.network.to(args.device)
    rows = bench(
        found.candidates,
        found.inputs,
        settings,
        args.rounds,
        progress=tell,
        judge=judge,
    )
    layers = {}
    if args.profile:
        tell('measuring layers')
        layers = profile(found, args)
    notes = [
        *found.notes,
        *(judge.notes if judge else []),
        *latency_note(found.prediction, rows, settings),
    ]
    return Measured(rows, settings, notes, found.prediction, layers)


def profile(found: Networks, args: Namespace) -> dict[str, dict[str, float]]:
    """Returns the seconds of every layer, in eager mode."""
    networks = {c.name: c.network for c in found.candidates}
    images = found.inputs.batch.to(args.device)
    return layer_times(
        networks, images, args.threads, args.rounds, args.device
    )


def latency_note(
    prediction: Prediction | None,
    rows: Sequence[Row],
    settings: Sequence[Setting],
) -> list[str]:
    """Returns predicted against measured latency, if it was predicted."""
    if prediction is None:
        return []
    # On the backend of its table, or else the text says what differs.
    wanted = prediction.setting.get('backend')
    setting = next((s for s in settings if s.backend == wanted), settings[0])
    return [prediction_text(prediction, rows, setting)]


def show(found: Measured, out: Console) -> None:
    """Prints tables and notes."""
    out.print(rows_table(found.rows))
    if found.layers:
        out.print(layers_table(found.layers))
    for text in found.notes:
        out.print(f'note: {text}')


def write(found: Measured, args: Namespace, out: Console) -> None:
    """Writes the files that were asked for, and says so."""
    if args.json is not None:
        data = to_dict(
            found.rows,
            found.settings,
            found.notes,
            found.prediction,
            found.layers,
        )
        write_json('json', args.json, data)
        out.print(f'wrote {args.json}', soft_wrap=True)
    if args.plot is not None:
        device = found.settings[0].described()['device']
        title = f'{device}, {args.threads} threads, batch {args.batch}'
        draw(found.rows, args.plot, title)
        out.print(f'wrote {args.plot}', soft_wrap=True)


@known_notes_hidden()
@tells_failures
def main(argv: Sequence[str] | None = None) -> None:
    """Measures."""
    args = parse_args(argv)
    check_files(args)
    with telling() as tell:
        found = measure(args, tell)
    out = console()
    show(found, out)
    write(found, args, out)
    failed = failures(found.rows)
    if failed:
        raise SystemExit('\n'.join(f'error: {text}' for text in failed))


if __name__ == '__main__':
    main()
