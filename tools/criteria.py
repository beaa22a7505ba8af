# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Show how much importance scores differ on a model.

Writes one page with everything in it, and JSON beside it: how alike scores
rank, whether they can tell channels apart, what they would keep at a budget,
and how the weights are distributed. Works on a pruning config and on any
config of mmpretrain or mmdet, with weights from before pruning.

Examples:
    python tools/criteria.py CONFIG work_dirs/NAME/epoch_200.pth
    python tools/criteria.py CONFIG CHECKPOINT --flops 0.4 --batches 2
    python tools/criteria.py CONFIG CHECKPOINT --scores l1 l2 fpgm --out a.html
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlapp.engine.config_files import (
    add_config_arguments,
    add_pruning_arguments,
    given,
    read_model_config,
)
from mmlapp.engine.criteria.files import EXAMPLE, write_study
from mmlapp.engine.criteria.study import study_config
from mmlapp.engine.failures import tells_failures
from mmlapp.engine.known_notes import known_notes_hidden
from mmlapp.engine.pages.files import check_out
from mmlapp.engine.terminal import console, telling


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parses the command line."""
    parser = ArgumentParser(
        description='Show how much importance scores differ on a model.'
    )
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='weights of the whole model, from before pruning; without them '
        'they are random',
    )
    parser.add_argument(
        '--scores',
        nargs='+',
        metavar='NAME',
        help='which ones; all that can be had by default',
    )
    parser.add_argument(
        '--flops',
        type=float,
        default=0.5,
        metavar='SHARE',
        help='share of the FLOPs at which kept channels are compared; 0.5 by '
        'default',
    )
    parser.add_argument(
        '--batches',
        type=int,
        default=0,
        metavar='N',
        help='batches of train_dataloader for scores that ask for data; '
        'kl_divergence runs each of them once per channel',
    )
    add_pruning_arguments(parser)
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('criteria.html'),
        metavar='FILE',
        help='page to write; criteria.html by default. The JSON is beside it',
    )
    # The checkpoint may also come behind the options.
    return parser.parse_intermixed_args(argv)


def settings(args: Namespace) -> dict[str, Any]:
    """Returns what a command line asks for instead of the config's."""
    return given(args, ('scope', 'input_shape'))


@known_notes_hidden()
@tells_failures
def main(argv: Sequence[str] | None = None) -> None:
    """Compares the scores."""
    args = parse_args(argv)
    with telling() as tell:
        check_out(args.out, EXAMPLE)
        study = study_config(
            read_model_config(args.config, args.cfg_options),
            args.checkpoint,
            scores=args.scores,
            target={'flops': args.flops},
            batches=args.batches,
            settings=settings(args),
            progress=tell,
        )
        paths = write_study(study, args.out)
    out = console()
    for text in study.warnings:
        out.print(f'warning: {text}')
    for name, reason in study.scores.left_out.items():
        out.print(f'left out: {name}: {reason}')
    for path in paths:
        out.print(f'wrote {path}', soft_wrap=True)


if __name__ == '__main__':
    main()
