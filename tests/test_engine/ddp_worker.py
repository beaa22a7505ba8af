# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Runs of one process, and of two over gloo with half the batch each.

python tests/test_engine/ddp_worker.py FOLDER

To import everything takes longest: the processes are forked when that is
done, and the first one makes the runs of one beforehand.
"""

import copy
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmpretrain.models  # noqa: F401
import torch
import torch._dynamo  # of optimizers
from config_layout import no_layout
from conftest import tiny_config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import distributed, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.modules.batchnorm import _BatchNorm

from mmlapp.core import Phase, PruningError
from mmlapp.engine import Distiller
from mmlapp.engine.distillation.refined_losses import RefinedLosses
from mmlapp.engine.launch import end_processes
from mmlapp.engine.training.parts import unwrap

BATCH = 16


class DoubleRunner(Runner):
    """Trains in float64: one process equals two up to round-off."""

    def build_model(self, model: Any) -> nn.Module:
        built = super().build_model(model).double()
        built.backbone.register_forward_pre_hook(
            lambda module, args: (args[0].double(),)
        )
        return built


class FixedNorms(Hook):
    """Statistics of half a batch are not those of a whole one."""

    def before_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        for module in unwrap(runner.model).modules():
            if isinstance(module, _BatchNorm):
                module.eval()


class DoubleTeacher(Hook):
    """Gives the teacher images in float64, as :class:`DoubleRunner` does."""

    def before_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        hook = next(h for h in runner.hooks if isinstance(h, Distiller))
        if hook.running is None:
            # Processes count for themselves, as statistics do.
            count = unwrap(runner.model).backbone.bn1.num_batches_tracked
            count.fill_(runner.rank)
        if hook.running is None or hook.running.steps:
            return
        if isinstance(hook.running, RefinedLosses):
            hook.running.refinement.double()
        backbone = hook.running.teacher.backbone
        backbone.register_forward_pre_hook(
            lambda module, args: (args[0].double(),)
        )
        name = f'{Path(runner.work_dir).name}-rank{runner.rank}.txt'
        path = Path(runner.work_dir).parent / name
        path.write_text(hook._teacher.digest)


class EmptyLayer(Hook):
    """Takes all filters of one layer, just before the model is narrowed."""

    priority = 'HIGH'

    def after_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        pruner = getattr(unwrap(runner.model), 'pruner', None)
        if pruner is not None and pruner.phase == Phase.FINISHED:
            pruner.gate[: pruner.groups[0].size] = 0


class OtherMask(Hook):
    """Spoils the masks of the second process."""

    def before_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        if runner.iter == 3 and runner.rank == 1:
            group = runner.model.module.pruner.groups[1]
            layer = group.layers[0].module
            layer._parameters['weight'].data[0] *= 100


def averages_and_accumulation(config: dict[str, Any]) -> None:
    """MMEngine's own wrapper; the phase ends before its length is over."""
    config['custom_hooks'][0]['end'] = dict(
        type='stable', epoch=1, similarity=0.5
    )
    config['custom_hooks'].insert(0, dict(type='EMAHook', momentum=0.1))
    config['optim_wrapper']['accumulative_counts'] = 2
    config['model_wrapper_cfg'] = dict(type='MMDistributedDataParallel')


def bypasses(config: dict[str, Any]) -> None:
    """Our wrapper; a layer is pruned to nothing."""
    config['model'].update(bypass='depthwise', unit='filters')
    config['optim_wrapper']['optimizer'] = dict(type='AdamW', lr=0.005)
    config['model_wrapper_cfg'] = dict(
        type='mmlapp.PruningDistributedDataParallel'
    )
    config['custom_hooks'].append(dict(type=EmptyLayer))


def narrow_bypasses(config: dict[str, Any]) -> None:
    """Our wrapper; every bypass becomes several convolutions."""
    bypasses(config)
    config['model'].update(bypass='grouped', unit='channels')
    config['custom_hooks'].pop()


def distilled(config: dict[str, Any]) -> None:
    """The dense model of the run teaches, and is sent to all processes."""
    averages_and_accumulation(config)
    config['custom_hooks'][1]['begin_iters'] = 4
    config['custom_hooks'] += [
        dict(type='mmlapp.Distiller', teacher='dense'),
        dict(type=DoubleTeacher),
    ]


def refined(config: dict[str, Any]) -> None:
    """Every image has a label that all processes learn alike."""
    distilled(config)
    config['custom_hooks'][-2]['type'] = 'mmlapp.LabelRefiner'


def spoiled(config: dict[str, Any]) -> None:
    """Ends with an error, so it comes last."""
    averages_and_accumulation(config)
    config['custom_hooks'].append(dict(type=OtherMask))


SCENARIOS: list[Callable[[dict[str, Any]], None]] = [
    averages_and_accumulation,
    bypasses,
    narrow_bypasses,
    distilled,
    refined,
    spoiled,
]


def run(scenario: Callable[..., None], folder: Path, processes: int) -> None:
    """Trains one scenario and writes its weights, or its error."""
    name = f'{scenario.__name__}-{processes}'
    config = tiny_config(folder / name, epochs=4, narrow=True)
    config['custom_hooks'][0].update(prune_epochs=2, target=dict(flops=0.6))
    config['custom_hooks'].append(dict(type=FixedNorms))
    scenario(config)
    config['experiment_name'] = name
    config['train_dataloader']['batch_size'] = BATCH // processes
    wrapper = config.pop('model_wrapper_cfg')
    if processes > 1:
        config['launcher'] = 'pytorch'
        config['env_cfg'] = dict(dist_cfg=dict(backend='gloo'))
        wrapper['device_ids'] = None
    cfg = dict(
        model_wrapper_cfg=wrapper,
        model=copy.deepcopy(config['model']),
        data_preprocessor=config['data_preprocessor'],
    )
    runner = DoubleRunner(**config, cfg=cfg)
    try:
        runner.train()
    except PruningError as error:
        path = folder / f'{name}-rank{runner.rank}.txt'
        path.write_text(str(error))


def work(rank: int, folder: Path, port: int) -> None:
    """Runs all scenarios, in one process and in both."""
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    with no_layout():
        if rank == 0:
            for scenario in SCENARIOS[:-1]:
                run(scenario, folder, processes=1)
        distributed.init_process_group('gloo')
        for scenario in SCENARIOS:
            run(scenario, folder, processes=2)
    end_processes()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return server.getsockname()[1]


if __name__ == '__main__':
    given = Path(sys.argv[1]), free_port()
    start_processes(work, given, nprocs=2, start_method='fork')
