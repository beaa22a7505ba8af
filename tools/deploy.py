# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Narrow a model that was pruned, check it, and write it.

The folder OUT gets a config, a checkpoint and the channel plan. They load
with mmpretrain's `init_model`, mmdet's `init_detector`, the inferencers of
both, and tools/test.py. Nothing is written unless the narrowed model computes
what the masked one does.

Examples:
    python tools/deploy.py CONFIG work_dirs/NAME/epoch_30.pth deployed/NAME
    python tools/test.py deployed/NAME/NAME.py deployed/NAME/NAME.pth
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from mmlapp.core import ChannelPlan
from mmlapp.core.compare import DEPLOYED_TOLERANCE
from mmlapp.engine.analysis.tables import figures_table, widths_table
from mmlapp.engine.benchmark.prediction import latency_text
from mmlapp.engine.config_files import (
    add_config_arguments,
    check_checkpoint,
    check_local,
    read_model_config,
)
from mmlapp.engine.deployment.deploy import Deployment, deploy
from mmlapp.engine.failures import tells_failures
from mmlapp.engine.known_notes import known_notes_hidden
from mmlapp.engine.terminal import console, telling


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parses the command line."""
    parser = ArgumentParser(
        description='Narrow a model that was pruned, check and write it.'
    )
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint',
        help='checkpoint of the run, from after its pruning phase',
    )
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument(
        '--force',
        action='store_true',
        help='replace what this tool wrote to OUT before',
    )
    parser.add_argument(
        '--merge-bypasses',
        action='store_true',
        help='add all bypasses to the filters beside them where the sum is '
        'one filter: a plain model with fewer FLOPs and the same outputs '
        '(those that budgets do not count always are)',
    )
    return parser.parse_args(argv)


def report(result: Deployment) -> None:
    """Prints figures, checks, remarks and paths."""
    out = console()
    out.print(widths_table(ChannelPlan.load(result.plan)))
    out.print(figures_table(result.figures))
    for check in result.checks:
        out.print(
            f'same outputs on {check.name}: relative error {check.error:.1e}, '
            f'at most {DEPLOYED_TOLERANCE:g}'
        )
    if result.widths:
        out.print(f'outputs of the backbone: {result.widths}')
    for note in result.notes:
        out.print(f'note: {note}')
    for path in (result.config, result.checkpoint, result.plan):
        out.print(f'wrote {path}', soft_wrap=True)


@known_notes_hidden()
@tells_failures
def main(argv: Sequence[str] | None = None) -> None:
    """Deploys."""
    args = parse_args(argv)
    with telling() as tell:
        cfg = read_model_config(args.config, args.cfg_options)
        check_local('checkpoint', args.checkpoint)
        check_checkpoint('checkpoint', args.checkpoint)
        result = deploy(
            cfg,
            args.checkpoint,
            args.out,
            force=args.force,
            merge=args.merge_bypasses,
            progress=tell,
        )
        latency = ''
        # Measured as the table of the budget was.
        if 'latency' in ChannelPlan.load(result.plan).costs:
            tell('measuring latency')
            latency = latency_text(cfg, args.checkpoint, result)
    report(result)
    if latency:
        console().print(latency, soft_wrap=True)


if __name__ == '__main__':
    main()
