# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the command-line tools share: arguments, config, processes."""

import atexit
import os
from argparse import ArgumentParser, Namespace
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import distributed

from mmlapp.core import PruningError

from .checkpoints.checked_loading import (
    LOADING,
    check_loading,
    checked_loading,
)
from .config_files import add_config_arguments, read_config
from .output_files import try_folder
from .training.plain_models import PlainModelHook


def add_launch_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of every tool that runs a config.

    Args:
        parser (ArgumentParser): The parser to extend.
    """
    add_config_arguments(parser)
    parser.add_argument(
        '--work-dir',
        help='folder of logs and checkpoints; the default is `work_dir` of '
        'the config, or else work_dirs/<name of the config>',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed run',
    )
    # Some launchers still pass the rank as an argument, in either spelling.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, help='set by the launcher'
    )


def load_config(args: Namespace) -> Config:
    """Loads the config that a command line names, with its overrides.

    Args:
        args (Namespace): Parsed arguments of :func:`add_launch_arguments`.

    Returns:
        Config: The config, with ``launcher`` and ``work_dir`` set. The command
        line goes before the config, and that before the name of the file.
    """
    if args.local_rank is not None:
        # Where MMEngine and torch look for it.
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    default_dir = str(Path('work_dirs') / Path(cfg.filename).stem)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_dir
    return cfg


def set_loader_defaults(cfg: Config) -> None:
    """Completes the data loaders of mmpretrain's configs in place.

    Those configs leave the collate function, pinned memory and persistent
    workers to mmpretrain's own tools. What a config sets is kept, and configs
    of other projects, which say it all themselves, are left alone.

    Args:
        cfg (Config): The config to complete.
    """
    if cfg.get('default_scope') != 'mmpretrain':
        return
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(field)
        if loader:
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())
            # torch refuses to keep workers where there are none.
            has_workers = loader.get('num_workers', 0) > 0
            loader.setdefault('persistent_workers', has_workers)


def start_cpu_processes(cfg: Config) -> None:
    """Prepares a distributed run on a machine without a GPU.

    MMEngine selects a GPU in each process, whatever the backend, and gives
    its index to the model wrapper. Without a GPU this function starts the
    process group over gloo, which MMEngine then leaves as it is, and keeps the
    index out of the wrapper. It does nothing in all other cases.

    Args:
        cfg (Config): The config of the run; changed in place.

    Raises:
        PruningError: If the launcher is another than ``'pytorch'``.
    """
    if cfg.launcher == 'none' or get_device() != 'cpu':
        return
    if cfg.launcher != 'pytorch':
        raise PruningError(
            f'launcher={cfg.launcher!r} needs a GPU for each process, and '
            "there is none: use launcher='pytorch' (tools/dist_train.sh)"
        )
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    # Half an hour, as torch has it for gloo.
    seconds = cfg.env_cfg.dist_cfg.get('timeout', 1800)
    distributed.init_process_group('gloo', timeout=timedelta(seconds=seconds))
    # Its threads may otherwise be running when the interpreter is gone.
    atexit.register(end_processes)
    # As the runner wraps a model by itself, but for the GPU.
    if cfg.get('model_wrapper_cfg') is None:
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
    cfg.model_wrapper_cfg.setdefault('device_ids', None)


def end_processes() -> None:
    """Leaves the process group, if there is one still."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def check_work_dir(path: str | Path) -> None:
    """Makes the folder of a run, or says that it cannot be one.

    Args:
        path (str or Path): The folder.

    Raises:
        PruningError: With the path, and why.
    """
    if Path(path).is_file():
        raise PruningError(
            f'work_dir={str(path)!r} is a file. Name a folder with --work-dir'
        )
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        try_folder(path)
    except OSError as error:
        raise PruningError(
            f'work_dir={str(path)!r} cannot be written to ({error.strerror}). '
            'Name another folder with --work-dir'
        ) from error


def build_runner(cfg: Config) -> Runner:
    """Builds the runner of a config, in the processes that it asks for.

    It reads local checkpoints without running code that they hold, and
    refuses damaged ones, and narrow weights for a plain model.

    Args:
        cfg (Config): The complete config.

    Returns:
        Runner: MMEngine's runner, or the one that ``runner_type`` names.

    Raises:
        PruningError: If the work dir cannot be written to.
    """
    check_work_dir(cfg.work_dir)
    set_loader_defaults(cfg)
    start_cpu_processes(cfg)
    with checked_loading():
        if 'runner_type' in cfg:
            runner = RUNNERS.build(cfg)
        else:
            runner = Runner.from_cfg(cfg)
    check_loading(runner, (*LOADING, 'train', 'val', 'test'))
    # By the tools, since plain configs name no hook of this package.
    runner.register_hook(PlainModelHook())
    return runner
