# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Finished pruning runs without training: a config file and a checkpoint."""

import copy
import gc
import os
import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from config_layout import no_layout
from latency_tables import made_up
from mmengine.config import Config
from mmengine.config import utils as config_utils
from mmengine.dataset import base_dataset
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from processor_time import ProcessorTime
from torch import nn

from mmlapp.engine.deployment.masked import build_model
from mmlapp.engine.latency.part import subject_of
from mmlapp.engine.latency.setting import Setting

CLASSIFIER = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmlapp'])
model = dict(
    type='mmlapp.PrunableModel',
    architecture='ImageClassifier',
    input_shape=(3, 16, 16),
    bypass={bypass!r},
    unit={unit!r},
    backbone=dict(
        type='mmlapp.CIFARResNet',
        depth=8,
        init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
data_preprocessor = dict(mean=[80.0] * 3, std=[90.0] * 3)
test_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(
        type='mmlapp.Digits',
        split='test',
        img_size=16,
        indices=16,
        serialize_data=False,
        pipeline=[dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_cfg = dict()
test_evaluator = dict(type='Accuracy')
optim_wrapper = dict(
    type='mmlapp.PruningOptimWrapper',
    optimizer=dict(type='SGD', lr=0.1),
)
custom_hooks = [
    dict(type='EMAHook', momentum=0.001),
    dict(type='mmlapp.PruningHook', target=dict(flops=0.5), prune_epochs=1),
]
load_from = 'dense.pth'
work_dir = 'somewhere'
"""
DETECTOR = """
default_scope = 'mmdet'
custom_imports = dict(imports=['mmlapp'])
model = dict(
    type='mmlapp.PrunableModel',
    architecture='RetinaNet',
    input_shape=(3, 64, 64),
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=8,
        base_channels=8,
        norm_eval=True,
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
    test_cfg=dict(
        nms_pre=20,
        score_thr=0.0,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=5,
    ),
)
test_dataloader = dict(
    dataset=dict(
        type='CocoDataset', ann_file='nowhere.json', pipeline=[]
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
optim_wrapper = dict(type='mmlapp.AmpPruningOptimWrapper')
custom_hooks = [dict(type='mmlapp.PruningHook')]
"""
META = dict(
    epoch=3,
    cfg='as trained',
    dataset_meta=dict(classes=tuple('0123456789'), palette=[(0, 0, 0)] * 10),
)


def pytest_configure(config):
    """One thread each, here and in children; what it costs is told.

    For tensors of this size a second thread waits, and that at full speed.
    """
    torch.set_num_threads(1)
    os.environ['OMP_NUM_THREADS'] = '1'
    config.pluginmanager.register(ProcessorTime())


def pytest_collection_finish():
    """What was imported stays, and is not searched for garbage again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def plain_configs():
    """Configs are not laid out, unless a test wants them so."""
    with no_layout():
        yield


@pytest.fixture(scope='session', autouse=True)
def kept_garbage():
    """No dataset of MMEngine collects it where it serialises its list."""
    with patch.object(base_dataset, 'gc', SimpleNamespace(collect=int)):
        yield


@pytest.fixture(scope='session', autouse=True)
def indexes_read_once():
    """MMEngine reads a library's hundred of YAML files for each base."""
    with patch.object(config_utils, 'load', cache(config_utils.load)):
        yield


@dataclass
class Run:
    """A config, a checkpoint, and the model in it.

    Args:
        config (Path): The config file.
        checkpoint (Path): What MMEngine would have saved.
        model (nn.Module): The masked model.
    """

    config: Path
    checkpoint: Path
    model: nn.Module

    def change(self, edit):
        """Rewrites the checkpoint after ``edit(checkpoint)``."""
        data = torch.load(self.checkpoint, weights_only=False)
        edit(data)
        torch.save(data, self.checkpoint)


def _randomise_norms(model):
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module._parameters['weight'], 0.5, 1.5)
            nn.init.normal_(module._parameters['bias'], std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


@lru_cache
def _finished_model(text, target):
    """Built once; runs get copies, whose pruners go their own ways."""
    torch.manual_seed(0)
    cfg = Config.fromstring(text, '.py')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build_model(cfg).eval()
    _randomise_norms(model)
    pruner = model.pruner
    pruner.begin({'flops': target}, steps=4)
    pruner.scores.copy_(torch.rand(len(pruner.gate)))
    pruner.finish()
    return model


def _finished_run(folder, text, target):
    config = folder / 'run.py'
    config.write_text(text)
    model = copy.deepcopy(_finished_model(text, target))
    torch.manual_seed(0)
    checkpoint = folder / 'epoch_3.pth'
    torch.save(
        {
            'meta': META,
            'message_hub': {'loss': HistoryBuffer([1.0, 0.5], [1, 1])},
            'optimizer': {'state': {0: torch.zeros(100_000)}},
            'state_dict': model.state_dict(),
        },
        checkpoint,
    )
    return Run(config, checkpoint, model)


@pytest.fixture(scope='session')
def finished_run():
    """Makes the run of a ResNet-8 at half of its FLOPs in a folder."""

    def make(folder, bypass=None, target=0.5, unit='channels'):
        text = CLASSIFIER.format(bypass=bypass, unit=unit)
        return _finished_run(folder, text, target)

    return make


@pytest.fixture
def classifier_run(finished_run, tmp_path):
    """Makes the run of a ResNet-8 at half of its FLOPs."""
    return partial(finished_run, tmp_path)


@pytest.fixture
def latency_run(make_latency_run):
    """Such a run whose budget was counted from a table; and its config."""
    return make_latency_run()


@pytest.fixture
def make_latency_run(classifier_run, tmp_path):
    """Makes a run whose budget was counted from a table; and its config.

    Times are in proportion to FLOPs, as if they had been measured here.
    """

    def make(bypass=None):
        run = classifier_run(bypass)
        subject = subject_of(Config.fromfile(run.config))
        table = made_up(
            subject.model, subject.images, scope='backbone', bypass=bypass
        )
        path = tmp_path / 'table.json'
        replace(table, setting=Setting().described()).save(path)
        costs = ['flops', 'parameters', dict(type='latency', table=str(path))]
        with run.config.open('a') as file:
            file.write(f"model['costs'] = {costs}\n")
        run.change(_add_cost)
        return Config.fromfile(run.config), run

    return make


def _add_cost(data):
    # The progress of a phase has a number for each cost.
    state, name = data['state_dict'], 'pruner.progress'
    state[name] = torch.cat([state[name], torch.zeros(1)])


@pytest.fixture
def detector_run(tmp_path):
    """Makes the run of a small RetinaNet at 60 % of its FLOPs."""

    def make():
        return _finished_run(tmp_path, DETECTOR, 0.6)

    return make


@pytest.fixture(scope='session')
def card():
    """The GPU of tests that need one.

    MMLAPP_TEST_CARD=cpu runs them without, to look for mistakes in them.
    """
    name = os.environ.get('MMLAPP_TEST_CARD', 'cuda')
    if name == 'cuda' and not torch.cuda.is_available():
        pytest.skip('needs a GPU: torch.cuda.is_available() is False')
    return name


@pytest.fixture(scope='session')
def extensions():
    """Registers the five files of docs/extending.md; returns their texts."""
    page = Path(__file__).parents[1] / 'docs' / 'extending.md'
    found = {}
    for section in re.split(r'^## ', page.read_text('utf-8'), flags=re.M)[1:]:
        block = re.search(r'```python\n(.*?)```', section, re.S)
        found[section.partition('\n')[0]] = block[1]
    for name, text in found.items():
        exec(compile(text, name, 'exec'), {'__name__': 'extension'})
    return found
