# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Every model in every file format: does the file compute the same?

    python benchmarks/exports.py --json docs/exports.json

Every network gets random weights and loses random channels, in a process of
its own. Files are compared on two photos. What is finished according to the
JSON is not measured again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import torch
from mmengine.config import Config
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from zoo.measure import ANY, build, random_masks
from zoo.networks import Entry, read_list
from zoo.randomise import randomise
from zoo.run import Measure, Row, preload, run_all
from zoo.table import own_introduction

from mmlapp.core import PruningError, analyse, attach, narrow
from mmlapp.core.files import replace_text
from mmlapp.engine.export.base import EXPORTERS, Settings
from mmlapp.engine.export.files import Exported, export
from mmlapp.engine.export.handover import HANDOVERS, Slim, hand_over
from mmlapp.engine.export.network import Network
from mmlapp.engine.export.pictures import example_images
from mmlapp.engine.models.example import example_of
from mmlapp.engine.terminal import console

LIST = Path(__file__).with_name('exports.txt')
FORMATS = 'onnx', 'torch_export', 'torchscript', 'plain', 'safetensors'
# Of the batch: open, or else that of the example.
DYNAMIC = 'batch', 'none'
MEASURE = """All weights and statistics are random, and a random share between
20 % and 90 % of every group of channels is kept. Every file is written by
`mmlapp.engine.export`, loaded and run on two photos (`load_sample_images` of
scikit-learn) behind the preprocessor of the model. A number is the largest
relative error of any output: at most 1e-4 in PyTorch and 1e-3 in ONNX
Runtime, or the file is not kept. With an asterisk the size of the batch is
fixed, for the network computes with it as a number. With a dagger a few
values are others, about which rounding decides in the network itself: PyTorch
in double precision has others, too. Photos are compared in a mirror as well.
"""


def measure_exports(entry: Entry) -> Row:
    """Prunes a network at random and writes it in every format.

    Args:
        entry (Entry): The network.

    Returns:
        dict: Plain data; a format that failed has its reason.
    """
    torch.manual_seed(0)
    row = failed(entry, '')
    try:
        slim, images = random_slim(entry)
    except Exception as error:
        text = ' '.join(str(error).split())[:300]
        return failed(entry, f'{type(error).__name__}: {text}')
    row.update(
        failed=None,
        part=slim.network.part,
        outputs=len(slim.network.names),
        kept=_count(slim.network.model) / _count(slim.dense()),
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            row['formats'][name] = attempt(slim, images, name, Path(folder))
    return row


def failed(entry: Entry, reason: str) -> Row:
    """Returns the row of a network that was not exported.

    Args:
        entry (Entry): The network.
        reason (str): Why.
    """
    return {'name': entry.name, 'failed': reason, 'formats': {}}


def random_slim(entry: Entry) -> tuple[Slim, Tensor]:
    """Builds a network and removes channels of it at random.

    Args:
        entry (Entry): The network.

    Returns:
        tuple[Slim, Tensor]: The slim network, and photos as it reads them.
    """
    model = build(entry)
    model.eval()
    randomise(model)
    example = example_of(model, entry.shape)
    found = analyse(
        model,
        example.forward,
        entry.scope,
        also=example.also,
        unused=example.unused,
    )
    pruner = attach(model, example.forward, analysis=found)
    random_masks(pruner, ANY)
    plan = pruner.plan()
    narrow(model, plan)
    cfg = Config({'model': {}})
    files = load_sample_images().filenames
    images = example_images(cfg, model, entry.shape, files).images
    network = Network.find(model, images)
    return Slim(network, [plan], (), lambda: build(entry)), images


def attempt(slim: Slim, images: Tensor, name: str, folder: Path) -> Row:
    """Writes one format, with an open batch where that is possible.

    Args:
        slim (Slim): The network.
        images (Tensor): ``[n, c, h, w]``.
        name (str): Of the format.
        folder (Path): Where files go.
    """
    reason = ''
    for dynamic in DYNAMIC if name in EXPORTERS else DYNAMIC[:1]:
        try:
            made = _write(slim, images, name, folder, dynamic)
        except PruningError as error:
            # Of the last way: with the batch fixed more is possible.
            reason = str(error)
        else:
            return {
                'error': made.error,
                'bytes': made.size,
                'open': dynamic,
                'undecided': made.undecided,
            }
    return {'reason': reason}


def _write(
    slim: Slim, images: Tensor, name: str, folder: Path, dynamic: str
) -> Exported:
    if name in HANDOVERS:
        path = folder / f'net{HANDOVERS[name]}'
        return hand_over(slim, images, path, name, force=True)
    path = folder / f'net{EXPORTERS[name].suffix}'
    settings = Settings(dynamic)
    return export(slim.network, images, path, settings=settings, force=True)


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def markdown(rows: Sequence[Row], introduction: str) -> str:
    """Returns the table, and what failed.

    Args:
        rows (Sequence[dict]): One per network.
        introduction (str): What the networks are.
    """
    done = [row for row in rows if row['failed'] is None]
    head = ['network', 'exported', 'outputs', 'parameters', *FORMATS]
    reasons = [
        f'- {row["name"]}, {name}: `{cell["reason"]}`'
        for row in done
        for name, cell in row['formats'].items()
        if 'reason' in cell
    ]
    others = [
        f'- {row["name"]}: `{row["failed"]}`'
        for row in rows
        if row['failed'] is not None
    ]
    lines = [introduction, MEASURE, summary(rows), '']
    lines += [_line(head), _line([':--', ':--', *['--:'] * (len(head) - 2)])]
    lines += [_line(_cells(row)) for row in done]
    for title, found in (
        ('What a format cannot hold', reasons),
        ('What was not exported', others),
    ):
        lines += ['', f'## {title}', '', *found] if found else []
    return '\n'.join([*lines, ''])


def summary(rows: Sequence[Row]) -> str:
    """Returns a sentence that counts what was written.

    Args:
        rows (Sequence[dict]): One per network.
    """
    done = [row for row in rows if row['failed'] is None]
    counts = ', '.join(
        f'{name} {sum("error" in row["formats"][name] for row in done)}'
        for name in FORMATS
    )
    return (
        f'{len(rows)} networks, {len(done)} ran. Files that agree: {counts}.'
    )


def _cells(row: Row) -> list[str]:
    cells = [row['formats'][name] for name in FORMATS]
    return [
        row['name'],
        row['part'],
        str(row['outputs']),
        f'{row["kept"]:.1%}',
        *(_cell(cell) for cell in cells),
    ]


def _cell(cell: Row) -> str:
    if 'reason' in cell:
        return 'no'
    mark = '' if cell['open'] == 'batch' else '*'
    torn = '†' if cell.get('undecided') else ''
    return f'{cell["error"]:.1g}{mark}{torn}'


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parses the command line."""
    parser = ArgumentParser(
        description='Write many networks in every format, and compare.'
    )
    parser.add_argument(
        'list', nargs='?', type=Path, default=LIST, help='as of the zoo'
    )
    parser.add_argument('--json', type=Path, required=True, metavar='FILE')
    parser.add_argument(
        '--table',
        action='store_true',
        help='measure nothing: the table of what the JSON has by now',
    )
    parser.add_argument(
        '--time-limit', type=float, default=900, metavar='SECONDS'
    )
    return parser.parse_args(argv)


def measure_all(
    entries: Sequence[Entry], out: Path, limit: float
) -> list[Row]:
    """As :func:`zoo.run.run_all`, and says where it is.

    Args:
        entries (Sequence[Entry]): The networks.
        out (Path): JSON file of the results.
        limit (float): Seconds that one network may take.
    """
    asked = Measure(measure_exports, failed)
    with console(sys.stderr).status('importing') as status:

        def update(name: str, number: int) -> None:
            status.update(f'{number + 1} of {len(entries)}: {name}')

        with redirect_stdout(sys.stderr):
            preload(entries)
        return run_all(entries, out, limit, update, asked)


def known_rows(entries: Sequence[Entry], out: Path) -> list[Row]:
    """Returns what was measured, and that the others were not.

    Args:
        entries (Sequence[Entry]): The networks.
        out (Path): JSON file of the results.
    """
    known = {row['name']: row for row in json.loads(out.read_text('utf-8'))}
    return [known.get(e.name, failed(e, 'not run')) for e in entries]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and writes the table."""
    args = parse_args(argv)
    text = args.list.read_text('utf-8')
    entries = read_list(text)
    source = args.list.resolve()
    root = Path(__file__).resolve().parents[1]
    if source.is_relative_to(root):
        source = source.relative_to(root)
    about = own_introduction(text, str(source), str(args.json))
    about = about.replace('benchmarks/zoo ', 'benchmarks/exports.py ')
    rows = (
        known_rows(entries, args.json)
        if args.table
        else measure_all(entries, args.json, args.time_limit)
    )
    replace_text(args.json.with_suffix('.md'), markdown(rows, about))
    print(summary(rows))


if __name__ == '__main__':
    main()
