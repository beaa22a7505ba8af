# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A residual, a depthwise and a detecting network, for every method.

``python three_networks.py STORE RANK NETWORK OUT`` is one of two processes
over gloo that prune one of them by every method, on images of their own; the
states of every phase go to ``OUT``.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from every_method import EVERY_METHOD
from mmengine.config import Config
from mmengine.registry import DefaultScope
from ranks import environment
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from mmlapp.engine.models.prunable import prunable_model

SHAPE = 3, 32, 32
# Of two images the last maps have two values, and rounding grows behind norms.
BATCH = 4, *SHAPE
STEPS, TARGET = 8, 0.6
CLASSES = dict(type='LinearClsHead', num_classes=10)
NETWORKS: dict[str, dict[str, Any]] = {
    'ResNet-20': dict(
        architecture='ImageClassifier',
        backbone=dict(type='mmlapp.CIFARResNet', depth=20),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(CLASSES, in_channels=64),
    ),
    'MobileNetV2': dict(
        architecture='ImageClassifier',
        backbone=dict(type='MobileNetV2', widen_factor=0.25),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(CLASSES, in_channels=1280),
    ),
    'RetinaNet': dict(
        architecture='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=dict(
            type='ResNet', depth=18, stem_channels=8, base_channels=8
        ),
        neck=dict(
            type='FPN',
            in_channels=[8, 16, 32, 64],
            out_channels=8,
            num_outs=5,
        ),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=2,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
        ),
    ),
}


def config_of(network: str, name: str) -> Config:
    """What a run of a network with a method has as its config."""
    model = dict(
        type='mmlapp.PrunableModel',
        input_shape=SHAPE,
        **NETWORKS[network],
        **EVERY_METHOD[name],
    )
    scope = 'mmdet' if network == 'RetinaNet' else 'mmpretrain'
    return Config(dict(model=model, default_scope=scope))


def build(network: str, name: str) -> Any:
    """The model of such a config, in float64, with the same weights."""
    config = config_of(network, name)
    settings = {k: v for k, v in config.model.items() if k != 'type'}
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = prunable_model(**settings).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Statistics of few steps are to be those of the images: outputs
            # would hardly depend on them.
            module.momentum = 0.5
    return model


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    return tree_leaves(model(images, mode='tensor'))


def begin(model: Any, images: Tensor) -> None:
    """A phase, with calibration images for those that want some."""
    model.pruner.prepare(model, [lambda: outputs(model, images)])
    model.pruner.begin({'flops': TARGET}, STEPS)


def train(model: Any, steps: range, wrapped: Any = None, rank: int = 0) -> Any:
    """Yields after each step on images of its own."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for step in steps:
        dice = torch.Generator().manual_seed(step + 1000 * rank)
        images = torch.rand(BATCH, generator=dice).double()
        found = outputs(wrapped or model, images)
        loss = sum((out - 1).square().mean() for out in found)
        optimizer.zero_grad()
        (loss + model.pruner.loss()).backward()
        optimizer.step()
        model.pruner.step()
        yield step


def states_of(network: str, name: str, rank: int) -> list[dict[str, Tensor]]:
    """The pruner's state after every step of a phase in one process."""
    model = build(network, name)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    begin(model, torch.rand(BATCH).double() + rank)
    return [
        {k: v.clone() for k, v in model.pruner.state_dict().items()}
        for _ in train(model, range(STEPS), wrapped, rank)
    ]


def states_of_both(folder: Path, network: str) -> list[dict[str, Any]]:
    """States of the pruners of two processes, by method and step.

    Args:
        folder (Path): For what the processes write.
        network (str): One of the three.
    """
    outs = folder / '0.pth', folder / '1.pth'
    running = [
        subprocess.Popen(
            [
                sys.executable, __file__, folder / 'store', str(rank),
                network, out,
            ],
            env=environment(),
        )
        for rank, out in enumerate(outs)
    ]  # fmt: skip
    assert [process.wait(timeout=590) for process in running] == [0, 0]
    return [torch.load(out) for out in outs]


if __name__ == '__main__':
    store, number, chosen, written = sys.argv[1:]
    distributed.init_process_group(
        'gloo', init_method=f'file://{store}', rank=int(number), world_size=2
    )
    told = {n: states_of(chosen, n, int(number)) for n in EVERY_METHOD}
    torch.save(told, written)
    distributed.destroy_process_group()
