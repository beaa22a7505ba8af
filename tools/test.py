# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint, of a dense, a pruned or a deployed model.

Examples:
    python tools/test.py CONFIG CHECKPOINT
    python tools/test.py CONFIG CHECKPOINT --out predictions.pkl
    tools/dist_test.sh CONFIG CHECKPOINT 8 --out metrics.json
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process, master_only
from mmengine.fileio import dump
from mmengine.registry import METRICS
from mmengine.runner import Runner

from mmlapp.core import PruningError
from mmlapp.engine.config_files import check_checkpoint
from mmlapp.engine.deployment.recipe import short_name
from mmlapp.engine.failures import tells_failures
from mmlapp.engine.known_notes import known_notes_hidden
from mmlapp.engine.launch import (
    add_launch_arguments,
    build_runner,
    load_config,
)
from mmlapp.engine.output_files import check_output, write_output
from mmlapp.engine.run_config import check_run

# Visualization hook: how to draw every image, and the name of its folder.
VISUALIZATION = {
    'VisualizationHook': (dict(enable=True, interval=1), 'out_dir'),
    'DetVisualizationHook': (dict(draw=True), 'test_out_dir'),
}
# Scope: what writes its predictions; detectors compress their masks.
PREDICTION_DUMPS = {'mmdet': 'mmdet.DumpDetResults'}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parses the command line."""
    parser = ArgumentParser(description='Evaluate a checkpoint of a config.')
    add_launch_arguments(parser)
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FILE',
        help='write the predictions to FILE.pkl, or the metrics to FILE.json',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='average over augmented images, as `tta_model` and '
        '`tta_pipeline` of the config say',
    )
    parser.add_argument(
        '--show', action='store_true', help='show the predictions in a window'
    )
    parser.add_argument(
        '--show-dir',
        type=Path,
        metavar='DIR',
        help='write painted predictions to DIR',
    )
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        metavar='SECONDS',
        help='how long --show keeps a picture; 2 by default',
    )
    args = parser.parse_args(argv)
    if args.out and args.out.suffix not in ('.json', '.pkl', '.pickle'):
        parser.error(
            f'--out {args.out}: name it .pkl for the predictions, or .json '
            'for the metrics'
        )
    return args


def show_predictions(cfg: Config, args: Namespace) -> None:
    """Turns the visualization hook on.

    Raises:
        PruningError: If the config has no such hook, or one with other
            settings.
    """
    # None is how a config takes a hook out.
    hook = (cfg.get('default_hooks') or {}).get('visualization') or {}
    name = short_name(hook.get('type', ''))
    if name not in VISUALIZATION:
        raise PruningError(
            '--show and --show-dir: the config has default_hooks.visualization'
            f'.type={name!r}; expected {" or ".join(VISUALIZATION)}'
        )
    settings, folder = VISUALIZATION[name]
    hook.update(settings, show=args.show, wait_time=args.wait_time)
    if args.show_dir:
        # mmdet puts a relative folder below the work dir.
        hook[folder] = str(args.show_dir.absolute())


def use_tta(cfg: Config) -> None:
    """Wraps the model for test-time augmentation.

    Raises:
        PruningError: If the config does not say how to augment.
    """
    missing = {'tta_model', 'tta_pipeline'} - set(cfg.keys())
    if missing:
        raise PruningError(
            f'--tta: the config has no {" and no ".join(sorted(missing))}; '
            'see the guide to test-time augmentation of MMEngine'
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


def configure(args: Namespace) -> Config:
    """Returns the config that a command line asks for."""
    cfg = load_config(args)
    check_run(cfg, 'test')
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        show_predictions(cfg, args)
    if args.tta:
        use_tta(cfg)
    return cfg


def evaluate(runner: Runner, out: Path | None) -> None:
    """Evaluates, and writes what ``out`` asks for."""
    if out is None:
        runner.test()
    elif out.suffix == '.json':
        metrics = runner.test()
        master_only(write_output)(
            'out', out, lambda file: dump(metrics, file, file_format='json')
        )
    else:
        dump_predictions(runner, out)


def dump_predictions(runner: Runner, out: Path) -> None:
    """Evaluates, and pickles all predictions, which one process writes."""
    scope = runner.cfg.get('default_scope')
    kind = PREDICTION_DUMPS.get(scope, 'DumpResults')
    with ExitStack() as stack:
        folder = out.parent
        if is_main_process():
            # Beside it, where there is as much room.
            own = TemporaryDirectory(dir=folder, prefix='.')
            folder = Path(stack.enter_context(own))
        path = folder / out.name
        writer = METRICS.build(dict(type=kind, out_file_path=str(path)))
        runner.test_evaluator.metrics.append(writer)
        runner.test()
        if is_main_process():
            write_output('out', out, path.replace)


@known_notes_hidden()
@tells_failures
def main(argv: Sequence[str] | None = None) -> None:
    """Evaluates the checkpoint."""
    args = parse_args(argv)
    check_checkpoint('checkpoint', args.checkpoint)
    if args.out:
        check_output('out', args.out)
    evaluate(build_runner(configure(args)), args.out)


if __name__ == '__main__':
    main()
