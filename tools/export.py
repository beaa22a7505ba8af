# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Write a trained model, slim or dense, for other programs.

CONFIG and CHECKPOINT are what tools/deploy.py wrote, or those of any dense
model of mmpretrain or mmdet. OUT is the path of the files without suffix.
Every file is run on images of the config's test data, and kept only if it
computes what the model does in PyTorch. One format that fails stops no other;
the exit code is then 1.

Examples:
    python tools/export.py deployed/NAME/NAME.py deployed/NAME/NAME.pth NAME
    python tools/export.py CONFIG CHECKPOINT OUT --formats onnx plain --fuse
    python tools/export.py CONFIG CHECKPOINT OUT --dynamic size --slim
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from mmlapp.engine.config_files import (
    add_config_arguments,
    check_checkpoint,
    read_model_config,
)
from mmlapp.engine.export.base import DYNAMIC, OPSET, Settings
from mmlapp.engine.export.command import Report, export_checkpoint
from mmlapp.engine.export.table import statuses_table
from mmlapp.engine.failures import tells_failures
from mmlapp.engine.known_notes import known_notes_hidden
from mmlapp.engine.terminal import console, telling


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parses the command line."""
    parser = ArgumentParser(
        description='Write a trained model, slim or dense, for other programs.'
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of the config')
    parser.add_argument(
        'out', type=Path, help='path of the files, without suffix'
    )
    parser.add_argument(
        '--formats',
        nargs='+',
        default=['onnx'],
        metavar='FORMAT',
        help='onnx, torch_export, torchscript; plain or safetensors for the '
        'weights with their plan, which mmlapp.core.load_slim reads '
        '(default: onnx)',
    )
    parser.add_argument(
        '--dynamic',
        choices=list(DYNAMIC),
        default='batch',
        help='what may differ from the example (default: batch)',
    )
    parser.add_argument(
        '--opset',
        type=int,
        metavar='N',
        help=f'of ONNX (default: {OPSET}, or the least that has what the '
        'network computes with)',
    )
    parser.add_argument(
        '--slim', action='store_true', help='simplify ONNX by OnnxSlim'
    )
    parser.add_argument(
        '--fp16',
        action='store_true',
        help='compute in half precision; inputs and outputs stay float32',
    )
    parser.add_argument(
        '--fuse',
        action='store_true',
        help='merge branches and fold BatchNorm into convolutions first',
    )
    parser.add_argument(
        '--input-shape',
        nargs=3,
        type=int,
        metavar=('CHANNELS', 'HEIGHT', 'WIDTH'),
        help='of the images (default: as the test data of the config has it)',
    )
    parser.add_argument(
        '--images',
        nargs='+',
        default=[],
        metavar='PICTURE',
        help='to compare on, instead of the test data of the config',
    )
    parser.add_argument(
        '--force', action='store_true', help='replace files of former calls'
    )
    return parser.parse_args(argv)


def show(report: Report) -> None:
    """Prints what was written and how it is used."""
    lines = [
        f'exported: {report.part}',
        report.inputs,
        f'outputs: {", ".join(report.names)}',
        f'compared on {report.images}',
        *(f'note: {note}' for note in report.notes),
    ]
    print(*lines, sep='\n', flush=True)
    console().print(statuses_table(report.statuses))
    for status in report.statuses:
        if status.remark:
            print(f'{status.name}: {status.remark}')
    if report.mmdeploy:
        print('with mmdeploy, NMS and all, from a clone in $MMDEPLOY:')
        print(report.mmdeploy)


@known_notes_hidden()
@tells_failures
def main(argv: Sequence[str] | None = None) -> None:
    """Exports."""
    args = parse_args(argv)
    with telling() as tell:
        settings = Settings(args.dynamic, args.opset, args.slim, args.fp16)
        cfg = read_model_config(args.config, args.cfg_options)
        check_checkpoint('checkpoint', args.checkpoint)
        report = export_checkpoint(
            cfg,
            args.checkpoint,
            args.out,
            args.formats,
            settings,
            fused=args.fuse,
            force=args.force,
            shape=args.input_shape,
            pictures=args.images,
            progress=tell,
        )
    show(report)
    if not report.passed:
        sys.exit(1)


if __name__ == '__main__':
    main()
