# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is refused is what MMEngine's Runner cannot be built of, and run."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope
from mmengine.runner import Runner

from mmlapp.core import PruningError
from mmlapp.engine.run_config import KINDS, LOOPS, check_run

# What a user would get instead, with a traceback.
OF_MMENGINE = (
    AssertionError,
    AttributeError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Mean(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode):
        loss = (torch.stack(inputs) - self.weight).square().mean()
        return {'loss': loss} if mode == 'loss' else inputs


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {'inputs': torch.tensor(1.0)}


class Count(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return {'count': len(results)}


@pytest.fixture
def config(tmp_path, monkeypatch, request):
    """Of a run of two numbers."""
    for registry, kind in (
        (MODELS, Mean),
        (DATASETS, Numbers),
        (METRICS, Count),
    ):
        name = f'{request.node.name}{kind.__name__}'
        registry.register_module(name=name, module=kind, force=True)
    prefix = request.node.name

    def loader():
        return dict(
            batch_size=2,
            dataset=dict(type=f'{prefix}Numbers'),
            sampler=dict(type='DefaultSampler', shuffle=False),
        )

    metric = dict(type=f'{prefix}Count')
    return dict(
        model=dict(type=f'{prefix}Mean'),
        work_dir=str(tmp_path),
        train_dataloader=loader(),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        val_dataloader=loader(),
        val_cfg=dict(),
        val_evaluator=metric,
        test_dataloader=loader(),
        test_cfg=dict(),
        test_evaluator=[metric],
        experiment_name=prefix,
        log_level='ERROR',
    )


def runs(config, kind):
    """Whether MMEngine makes a run of it."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        getattr(Runner.from_cfg(Config(copy.deepcopy(config))), kind)()


@pytest.mark.parametrize('kind', ['train', 'test'])
def test_a_complete_config_runs(config, kind):
    check_run(config, kind, also='val')
    runs(config, kind)


def without(*names):
    """Removes settings, the inner ones by dotted names."""

    def change(config):
        for name in names:
            outer, _, inner = name.rpartition('.')
            (config[outer] if outer else config).pop(inner)

    return change


def having(**settings):
    return lambda config: config.update(settings)


LACKS = {
    'model': ('test', without('model'), 'it has no model'),
    'test': (
        'test',
        without(*LOOPS['test']),
        'it has no test_dataloader, no test_cfg and no test_evaluator, which',
    ),
    'train': ('train', without(*LOOPS['train']), 'no train_cfg and no optim_'),
    **{
        f'{name} of {kind}': (kind, without(name), f'no {name}')
        for kind in ('train', 'test')
        for names in LOOPS.values()
        for name in names
    },
    **{
        f'data of {name}': (
            kind,
            without(f'{name}.dataset'),
            f'{name} has no dataset',
        )
        for kind, name in (
            ('train', 'train_dataloader'),
            ('train', 'val_dataloader'),
            ('test', 'test_dataloader'),
        )
    },
    'optimizer': (
        'train',
        without('optim_wrapper.optimizer'),
        'optim_wrapper has no optimizer',
    ),
    'loop': ('train', having(train_cfg=dict(max_epochs=1)), 'has no type: gi'),
    'two loops': (
        'train',
        having(train_cfg=dict(type='EpochBasedTrainLoop', by_epoch=True)),
        'train_cfg has both a type and by_epoch',
    ),
    'epochs': (
        'train',
        having(train_cfg=dict(by_epoch=True)),
        'no max_epochs',
    ),
    'iters': ('train', having(train_cfg=dict(by_epoch=False)), 'no max_iters'),
    **{
        f'{name} is a number': (
            'test' if name.startswith('test') else 'train',
            having(**{name: 3}),
            f'{name}=3: expected ',
        )
        for name in KINDS
        # Of a model that reads one; see the tests of configs of models.
        if not name.endswith('data_preprocessor')
    },
    'text': ('test', having(test_evaluator='x'), "test_evaluator='x': expect"),
}


@pytest.mark.parametrize('case', LACKS)
def test_what_no_run_is_made_of(config, case):
    kind, change, text = LACKS[case]
    change(config)
    with pytest.raises(PruningError, match=text):
        check_run(config, kind, also='val')
    with pytest.raises(OF_MMENGINE):
        runs(config, kind)


def test_what_is_not_run_may_be_missing(config):
    without(*LOOPS['train'], *LOOPS['val'])(config)
    check_run(config, 'test')
    runs(config, 'test')


def test_another_runner_may_need_other_parts():
    cfg = dict(model=dict(type='Net'), runner_type='Own')
    check_run(cfg, 'train')
    with pytest.raises(PruningError, match='no model'):
        check_run(dict(runner_type='Own'), 'train')


def test_the_config_is_named(tmp_path):
    path = tmp_path / 'recipe.py'
    path.write_text('lr = 1')
    with pytest.raises(PruningError) as info:
        check_run(Config.fromfile(path), 'test')
    assert str(info.value) == f'config={str(path)!r}: it has no model'
