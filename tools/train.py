# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Train the model of a config of mmpretrain, mmdet or mmlapp.

Examples:
    python tools/train.py CONFIG
    python tools/train.py CONFIG --resume --cfg-options train_cfg.max_epochs=5
    tools/dist_train.sh CONFIG 8 --amp
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.logging import print_log

from mmlapp.core import PruningError
from mmlapp.engine import equal_cost
from mmlapp.engine.checkpoints.latest import latest_checkpoint
from mmlapp.engine.config_files import check_checkpoint
from mmlapp.engine.deployment.recipe import short_name
from mmlapp.engine.failures import tells_failures
from mmlapp.engine.known_notes import known_notes_hidden
from mmlapp.engine.launch import (
    add_launch_arguments,
    build_runner,
    load_config,
)
from mmlapp.engine.run_config import check_run

# Optimizer wrapper: its twin for mixed precision.
AMP_WRAPPERS = {
    'OptimWrapper': 'AmpOptimWrapper',
    'PruningOptimWrapper': 'mmlapp.AmpPruningOptimWrapper',
}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parses the command line."""
    parser = ArgumentParser(description='Train the model of a config.')
    add_launch_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or without a value from the '
        'latest one in the work dir, if there is one',
    )
    parser.add_argument(
        '--amp', action='store_true', help='train in mixed precision'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the total batch size, as '
        '`auto_scale_lr` of the config says',
    )
    parser.add_argument(
        '--no-validate',
        action='store_true',
        help='do not evaluate during training',
    )
    return parser.parse_args(argv)


def use_amp(cfg: Config) -> None:
    """Replaces the optimizer wrapper by its twin for mixed precision.

    Raises:
        PruningError: If no such twin is known.
    """
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    # Text, or a class in a config that is written in pure Python.
    name = short_name(kind)
    if name not in {*AMP_WRAPPERS, *map(short_name, AMP_WRAPPERS.values())}:
        raise PruningError(
            f'--amp: the config has optim_wrapper.type={name!r}, and a twin '
            f'for mixed precision is known for {", ".join(AMP_WRAPPERS)} '
            'only. Write the type that you want into the config instead'
        )
    wrapper.type = AMP_WRAPPERS.get(name, kind)
    wrapper.setdefault('loss_scale', 'dynamic')


def set_resume(cfg: Config, checkpoint: str) -> None:
    """Goes on from a checkpoint, or with ``'auto'`` from the latest one.

    Where there is none yet a run begins as its config says, from the weights
    of its ``load_from``: MMEngine would drop them.
    """
    if checkpoint == 'auto':
        found = latest_checkpoint(cfg.work_dir)
        if found is None:
            return
        checkpoint = found
        print_log(f'--resume: from {checkpoint}')
    cfg.resume, cfg.load_from = True, checkpoint


def scale_lr(cfg: Config) -> None:
    """Turns the scaling of the learning rate on.

    Raises:
        PruningError: If the config does not say for which batch size its
            learning rate is meant.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise PruningError(
            '--auto-scale-lr: the config has no auto_scale_lr.base_batch_size,'
            ' the total batch size for which its learning rate is meant. Add '
            'auto_scale_lr=dict(base_batch_size=...)'
        )
    cfg.auto_scale_lr.enable = True


def skip_validation(cfg: Config) -> None:
    """Removes the evaluation during training."""
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None


def configure(args: Namespace) -> Config:
    """Returns the config that a command line asks for."""
    cfg = load_config(args)
    if args.no_validate:
        skip_validation(cfg)
    check_run(cfg, 'train', also='val')
    if args.amp:
        use_amp(cfg)
    resume = args.resume
    if resume is None and cfg.get('resume') and not cfg.get('load_from'):
        resume = 'auto'  # as MMEngine takes it
    if resume is not None:
        set_resume(cfg, resume)
    if args.auto_scale_lr:
        scale_lr(cfg)
    if cfg.get('load_from'):
        name = 'load_from' if resume is None else '--resume'
        check_checkpoint(name, cfg.load_from)
    return equal_cost(cfg)


@known_notes_hidden()
@tells_failures
def main(argv: Sequence[str] | None = None) -> None:
    """Trains."""
    build_runner(configure(parse_args(argv))).train()


if __name__ == '__main__':
    main()
