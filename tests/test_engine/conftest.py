# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A tiny classifier in a real Runner."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

# A script of test_distributed.py, not a module of tests.
collect_ignore = ['ddp_worker.py']

ITERS = 4  # per epoch


def tiny_config(
    work_dir: Path,
    epochs: int = 3,
    narrow: bool = False,
    plain: bool = False,
) -> dict[str, Any]:
    """A ResNet-8 on 64 digits of 8x8 pixels, pruned for two epochs.

    With ``plain`` it is a run without any of this package's hooks.
    """
    config = pruning_config(work_dir, epochs, narrow)
    if plain:
        model = config['model']
        model['type'] = model.pop('architecture')
        del model['input_shape']
        config['optim_wrapper']['type'] = 'OptimWrapper'
        config['custom_hooks'] = []
    return config


def pruning_config(
    work_dir: Path, epochs: int, narrow: bool
) -> dict[str, Any]:
    """The config of a run with ``PruningHook``."""
    dataset = dict(
        type='mmlapp.Digits',
        img_size=8,
        indices=16 * ITERS,
        serialize_data=False,  # which collects garbage
        pipeline=[dict(type='PackInputs')],
    )
    return dict(
        default_scope='mmpretrain',
        work_dir=str(work_dir),
        experiment_name='tiny',
        randomness=dict(seed=0),
        model=dict(
            type='mmlapp.PrunableModel',
            architecture='ImageClassifier',
            input_shape=(3, 8, 8),
            backbone=dict(type='mmlapp.CIFARResNet', depth=8),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
        ),
        data_preprocessor=dict(mean=[80.0] * 3, std=[90.0] * 3),
        train_dataloader=dict(
            batch_size=16,
            num_workers=0,
            dataset=dataset,
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(
            type='mmlapp.PruningOptimWrapper',
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
        ),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', interval=1),
        ),
        custom_hooks=[
            dict(
                type='mmlapp.PruningHook',
                target=dict(flops=0.5),
                prune_epochs=2,
                interval=2,
                narrow=narrow,
            )
        ],
        visualizer=dict(
            type='mmengine.Visualizer',
            vis_backends=[dict(type='LocalVisBackend')],
        ),
        log_level='WARNING',
    )


@pytest.fixture
def make_runner(tmp_path: Path) -> Iterator[Callable[..., Runner]]:
    """Builds Runners that leave no global state behind."""
    count = 0

    def make(
        change: Callable[[dict[str, Any]], None] | None = None,
        kind: type = Runner,
        **kwargs: Any,
    ) -> Any:
        nonlocal count
        count += 1
        kwargs.setdefault('work_dir', tmp_path)
        config = copy.deepcopy(tiny_config(**kwargs))
        config['experiment_name'] = f'{tmp_path.name}-{count}'
        if change is not None:
            change(config)
        return kind(**config)

    yield make
    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            handler.close()
    for kind in (MessageHub, MMLogger, Visualizer, DefaultScope):
        kind._instance_dict.clear()
