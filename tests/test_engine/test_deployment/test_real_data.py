# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
from typing import ClassVar

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmlapp.engine.deployment.real_data import real_batch


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def loader(kind='mmlapp.Digits', batch_size=3, **dataset):
    return dict(
        batch_size=batch_size,
        num_workers=2,
        persistent_workers=True,
        prefetch_factor=2,
        dataset=dict(type=kind, pipeline=[dict(type='PackInputs')], **dataset),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )


@pytest.mark.parametrize(('batch_size', 'count'), [(3, 3), (128, 4)])
def test_the_first_images(batch_size, count):
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            val_dataloader=loader(split='train'),
            test_dataloader=loader(split='test', batch_size=batch_size),
        )
    )
    before = cfg.to_dict()
    batch, name = real_batch(cfg)
    assert name == 'test_dataloader'
    assert batch['inputs'].shape[:2] == (count, 3)
    assert cfg.to_dict() == before


def test_validation_stands_in():
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            test_dataloader=None,
            val_dataloader=loader(split='test'),
        )
    )
    batch, name = real_batch(cfg)
    assert name == 'val_dataloader'
    assert len(batch['inputs']) == 3


def test_missing_data_is_a_reason_not_an_error(tmp_path):
    cfg = Config(
        dict(test_dataloader=loader('CustomDataset', data_root=str(tmp_path)))
    )
    batch, reason = real_batch(cfg)
    assert batch is None
    assert reason.startswith('test_dataloader: ')
    assert real_batch(Config()) == (None, 'the config has no test_dataloader')


class Remote:
    """A data set that is fetched unless it is told not to."""

    asked: ClassVar[list[str]] = []
    metainfo: ClassVar[dict] = {}

    def __init__(self, download=True):
        if download:
            self.asked.append('fetched')

    def full_init(self):
        pass

    def get_cat_ids(self, index):
        return [0]

    def __getitem__(self, index):
        return torch.zeros(1)

    def __len__(self):
        return 1


class Passing(Remote):
    """One of mine whose arguments are those of the class above."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)


class Mapped(Remote):
    """One of mine that takes others by name, in lists of lists."""

    def __init__(self, named, nested):
        self.parts = [*named.values(), *nested[0]]
        for part in self.parts:
            DATASETS.build(part)


ONE = dict(type='RemoteData')


@pytest.mark.parametrize(
    'dataset',
    [
        ONE,
        dict(ONE, download=True),
        dict(type=Remote),
        dict(type=Passing),
        dict(type='RepeatDataset', times=2, dataset=ONE),
        dict(type='ConcatDataset', datasets=[ONE, dict(ONE)]),
        dict(
            type='ConcatDataset',
            datasets=[dict(type='RepeatDataset', times=1, dataset=ONE)],
        ),
        dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=ONE),
        dict(type='MappedData', named=dict(a=ONE), nested=[(dict(ONE),)]),
    ],
    ids=[
        'alone',
        'said',
        'class',
        'passing',
        'repeated',
        'joined',
        'both',
        'balanced',
        'own',
    ],
)
def test_nothing_is_downloaded(dataset, monkeypatch):
    for kind, name in ((Remote, 'RemoteData'), (Mapped, 'MappedData')):
        monkeypatch.setitem(DATASETS.module_dict, name, kind)
    monkeypatch.setattr(Remote, 'asked', [])
    settings = dict(
        batch_size=1, num_workers=0, dataset=copy.deepcopy(dataset)
    )
    settings['sampler'] = dict(type='DefaultSampler', shuffle=False)
    # What stands inside is built: the batch is there, or it could not tell.
    monkeypatch.setattr('mmengine.dataset.dataset_wrapper.BaseDataset', Remote)
    batch, reason = real_batch(Config(dict(test_dataloader=settings)))
    assert batch is not None, reason
    assert Remote.asked == []
