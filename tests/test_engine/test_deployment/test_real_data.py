# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

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


@pytest.mark.parametrize('wrapped', [False, True])
def test_nothing_is_downloaded(tmp_path, monkeypatch, wrapped):
    from mmpretrain.datasets import cifar

    asked = []
    monkeypatch.setattr(
        cifar,
        'download_and_extract_archive',
        lambda *args, **kwargs: asked.append(args),
    )
    settings = loader('CIFAR10', data_root=str(tmp_path), split='test')
    if wrapped:
        inner = settings['dataset']
        settings['dataset'] = dict(
            type='RepeatDataset', times=2, dataset=inner
        )
    batch, _ = real_batch(Config(dict(test_dataloader=settings)))
    assert batch is None
    assert asked == []
