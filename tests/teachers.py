# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The dense model of the tiny run of ``tests/test_engine``, as a teacher."""

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

CLASSES = tuple(str(digit) for digit in range(10))
PREPROCESSOR = dict(mean=[80.0] * 3, std=[90.0] * 3)
DENSE = dict(
    type='ImageClassifier',
    backbone=dict(type='mmlapp.CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)


def config_of(prunable: bool = True, **head: Any) -> Config:
    """Config of a run of the model, without data and hooks."""
    model = copy.deepcopy(DENSE)
    model['head'].update(head)
    if prunable:
        ours = dict(type='mmlapp.PrunableModel', input_shape=(3, 8, 8))
        model = {**model, 'architecture': model['type'], **ours}
    return Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            data_preprocessor=PREPROCESSOR,
        )
    )


def build(config: Config, seed: int = 1) -> nn.Module:
    """A model with random weights, and logits that teach something."""
    torch.manual_seed(seed)
    model = copy.deepcopy(config.model)
    model.setdefault('data_preprocessor', config.data_preprocessor)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built: nn.Module = MODELS.build(model)
    for parameter in built.head.parameters():
        parameter.data.normal_()
    return built


def save(path: Path, model: nn.Module, classes: Any = CLASSES) -> str:
    """Writes a checkpoint as a runner does; returns its path."""
    meta = {'dataset_meta': {'classes': classes}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)
    return str(path)
