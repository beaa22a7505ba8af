# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Show what each layer costs, and what can be pruned.

Works on a pruning config and on any config of mmpretrain or mmdet. Nothing is
trained and nothing downloaded.

Examples:
    python tools/analyze.py configs/digits/lapp-flops40_resnet20_b64_digits.py
    python tools/analyze.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py
    python tools/analyze.py CONFIG --scope backbone --input-shape 3 224 224
    python tools/analyze.py CONFIG --bypass depthwise --json analysis.json
"""

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from typing import Any

from mmlapp.core.files import json_text
from mmlapp.engine.analysis.model_report import (
    ANALYSED,
    ModelReport,
    analyse_config,
)
from mmlapp.engine.analysis.tables import (
    groups_table,
    layers_table,
    totals_table,
)
from mmlapp.engine.config_files import (
    add_config_arguments,
    add_pruning_arguments,
    given,
    read_model_config,
)
from mmlapp.engine.failures import tells_failures
from mmlapp.engine.known_notes import known_notes_hidden
from mmlapp.engine.output_files import (
    check_apart,
    check_output,
    write_json,
)
from mmlapp.engine.terminal import console, telling


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parses the command line."""
    parser = ArgumentParser(
        description='Show what each layer costs, and what can be pruned.',
        epilog='What neither the command line nor the config says has the '
        'default of mmlapp.PrunableModel.',
    )
    add_config_arguments(parser)
    add_pruning_arguments(parser)
    parser.add_argument(
        '--ignore',
        nargs='+',
        metavar='PATTERN',
        help='names of modules to leave alone',
    )
    parser.add_argument(
        '--keep-streams',
        action=BooleanOptionalAction,
        help='whether residual streams stay whole',
    )
    parser.add_argument('--bypass', metavar='TYPE', help='such as depthwise')
    parser.add_argument(
        '--unit',
        metavar='TYPE',
        help='what is removed: channels, filters or stripes',
    )
    parser.add_argument(
        '--divisor',
        type=int,
        metavar='N',
        help='what numbers of kept channels are multiples of',
    )
    parser.add_argument(
        '--min-keep',
        type=share_or_name,
        metavar='SHARE',
        help='least share of every group that is kept, or by_width',
    )
    parser.add_argument(
        '--unused',
        nargs='+',
        metavar='PATTERN',
        help='names of modules that run in no mode and read nothing that is '
        'pruned',
    )
    parser.add_argument(
        '--json',
        metavar='FILE',
        help='write the analysis to FILE as well; - writes it to standard '
        'output instead of the tables',
    )
    return parser.parse_args(argv)


def share_or_name(text: str) -> float | str:
    """Returns a number where a text is one."""
    try:
        return float(text)
    except ValueError:
        return text


def settings(args: Namespace) -> dict[str, Any]:
    """Returns what a command line asks for instead of the config's."""
    return given(args, ANALYSED)


def show(report: ModelReport, target: str | None) -> None:
    """Prints the tables, and writes JSON where it is wanted."""
    if target == '-':
        print(json_text(report.to_dict(), 1))
        return
    out = console()
    out.print(layers_table(report))
    out.print(groups_table(report))
    out.print(totals_table(report))
    if target is not None:
        write_json('json', target, report.to_dict())


@known_notes_hidden()
@tells_failures
def main(argv: Sequence[str] | None = None) -> None:
    """Analyses."""
    args = parse_args(argv)
    if args.json not in (None, '-'):
        check_output('json', args.json)
        check_apart('json', args.json, [args.config])
    with telling() as tell:
        cfg = read_model_config(args.config, args.cfg_options)
        report = analyse_config(cfg, settings(args), tell)
    show(report, args.json)


if __name__ == '__main__':
    main()
