# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from mmlapp.core import PruningError
from mmlapp.engine import AmpPruningOptimWrapper, PruningOptimWrapper

CONFIG = """
model = dict(type='Net')
train_dataloader = dict(dataset=dict())
train_cfg = dict(by_epoch=True, max_epochs=1)
work_dir = 'from_config'
load_from = 'https://there/pretrained.pth'
optim_wrapper = dict(type='{wrapper}', optimizer=dict(type='SGD', lr=0.1))
auto_scale_lr = dict(base_batch_size=256)
val_cfg = dict()
val_dataloader = dict(batch_size=2, dataset=dict())
val_evaluator = dict(type='Accuracy')
"""


@pytest.fixture(scope='module')
def train(load_tool):
    return load_tool('train')


@pytest.fixture
def configure(train, tmp_path):
    def run(*argv, wrapper='OptimWrapper'):
        path = tmp_path / 'recipe.py'
        path.write_text(CONFIG.format(wrapper=wrapper))
        return train.configure(train.parse_args([str(path), *argv]))

    return run


def test_without_arguments_the_config_is_kept(configure):
    cfg = configure()
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert 'loss_scale' not in cfg.optim_wrapper
    assert cfg.load_from == 'https://there/pretrained.pth'
    assert not cfg.get('resume', False)
    assert 'enable' not in cfg.auto_scale_lr
    assert cfg.val_dataloader.batch_size == 2


@pytest.mark.parametrize(
    ('wrapper', 'twin'),
    [
        ('OptimWrapper', 'AmpOptimWrapper'),
        ('mmengine.OptimWrapper', 'AmpOptimWrapper'),
        ('AmpOptimWrapper', 'AmpOptimWrapper'),
        ('mmlapp.PruningOptimWrapper', 'mmlapp.AmpPruningOptimWrapper'),
        ('mmlapp.AmpPruningOptimWrapper', 'mmlapp.AmpPruningOptimWrapper'),
        # As Config writes the class of a config in pure Python.
        ('mmengine.optim.OptimWrapper', 'AmpOptimWrapper'),
    ],
)
def test_amp_takes_the_twin(configure, wrapper, twin):
    cfg = configure('--amp', wrapper=wrapper)
    assert cfg.optim_wrapper.type == twin
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    assert cfg.optim_wrapper.optimizer.lr == 0.1


@pytest.mark.parametrize(
    ('wrapper', 'twin'),
    [
        (OptimWrapper, 'AmpOptimWrapper'),
        (AmpOptimWrapper, AmpOptimWrapper),
        (PruningOptimWrapper, 'mmlapp.AmpPruningOptimWrapper'),
        (AmpPruningOptimWrapper, AmpPruningOptimWrapper),
    ],
)
def test_amp_takes_the_twin_of_a_class(train, wrapper, twin):
    """As configs in pure Python name it."""
    cfg = Config(dict(optim_wrapper=dict(type=wrapper)))
    train.use_amp(cfg)
    assert cfg.optim_wrapper.type == twin


def test_amp_takes_the_default_type_and_keeps_a_loss_scale(train):
    cfg = Config(dict(optim_wrapper=dict(loss_scale=512.0)))
    train.use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 512.0


def test_amp_refuses_other_types(configure):
    with pytest.raises(ValueError, match="type='ApexOptimWrapper'") as info:
        configure('--amp', wrapper='ApexOptimWrapper')
    assert 'OptimWrapper, PruningOptimWrapper only' in str(info.value)


@pytest.mark.parametrize(
    ('argv', 'load_from'),
    [
        (['--resume'], 's3://last.pth'),
        (['--resume', 'auto'], 's3://last.pth'),
        (['--resume', 's3://epoch_3.pth'], 's3://epoch_3.pth'),
    ],
)
def test_resume(configure, tmp_path, argv, load_from):
    (tmp_path / 'last_checkpoint').write_text('s3://last.pth')
    cfg = configure(*argv, '--work-dir', str(tmp_path))
    assert cfg.resume is True
    assert cfg.load_from == load_from


def test_resume_of_the_config(train, tmp_path):
    """As MMEngine takes it: from the latest one where it names none."""
    (tmp_path / 'epoch_3.pth').write_text('')
    path = tmp_path / 'recipe.py'
    text = CONFIG.format(wrapper='OptimWrapper') + '\nresume = True\n'
    args = train.parse_args([str(path), '--work-dir', str(tmp_path)])
    path.write_text(f"{text}load_from = 's3://a.pth'\n")
    assert train.configure(args).load_from == 's3://a.pth'
    path.write_text(f'{text}load_from = None\n')
    # It is found, and empty.
    with pytest.raises(PruningError, match=r'^--resume=.*epoch_3'):
        train.configure(args)


def test_the_first_start_has_nothing_to_go_on_from(configure, tmp_path):
    """As a job that is started again and again until it is done."""
    cfg = configure('--resume', '--work-dir', str(tmp_path))
    assert not cfg.get('resume', False)
    assert cfg.load_from == 'https://there/pretrained.pth'


def test_what_is_saved_is_trained_for(train, tmp_path):
    (tmp_path / 'base.py').write_text(
        """
custom_hooks = [
    dict(type='mmlapp.PruningHook', target=dict(flops=0.5), prune_epochs=2)
]
model = dict(type='mmlapp.PrunableModel')
optim_wrapper = dict(optimizer=dict(type='SGD'))
train_dataloader = dict(dataset=dict())
param_scheduler = dict(type='MultiStepLR', milestones=[3])
train_cfg = dict(by_epoch=True, max_epochs=6)
"""
    )
    path = tmp_path / 'recipe.py'
    path.write_text(
        """
_base_ = './base.py'
hooks = _base_.custom_hooks
custom_hooks = [dict(train_cost='dense', **hooks[0])]
"""
    )

    def configure(*argv):
        return train.configure(train.parse_args([str(path), *argv]))

    cfg = configure()
    assert cfg.train_cfg.max_epochs == 9
    assert cfg.param_scheduler.milestones == [5]
    assert cfg.custom_hooks[0].prune_epochs == 3
    assert configure('--resume').train_cfg == cfg.train_cfg
    # 1 + 11 / 2 = 6.5 of 12.
    cfg = configure(
        '--cfg-options',
        'train_cfg.max_epochs=12',
        'custom_hooks.0.prune_epochs=1',
    )
    assert cfg.train_cfg.max_epochs == 22


def test_auto_scale_lr(configure):
    assert configure('--auto-scale-lr').auto_scale_lr.enable is True


@pytest.mark.parametrize('setting', [None, dict(enable=False)])
def test_auto_scale_lr_needs_a_base(train, setting):
    with pytest.raises(ValueError, match=r'no auto_scale_lr\.base_batch_size'):
        train.scale_lr(Config(dict(auto_scale_lr=setting)))


def test_no_validate(configure):
    cfg = configure('--no-validate')
    assert cfg.val_cfg is None
    assert cfg.val_dataloader is None
    assert cfg.val_evaluator is None


def test_a_missing_checkpoint_is_named_with_its_argument(configure, tmp_path):
    path = str(tmp_path / 'gone.pth')
    with pytest.raises(PruningError, match=r"--resume='.*gone\.pth': there"):
        configure('--resume', path)
    with pytest.raises(PruningError, match=r"load_from='.*gone\.pth': there"):
        configure('--cfg-options', f'load_from={path}')


def test_what_a_config_lacks_is_one_line(train, tmp_path):
    path = tmp_path / 'recipe.py'
    half = f'{CONFIG.format(wrapper="OptimWrapper")}\nval_cfg = None'
    for text, found in (
        ('lr = 0.1', 'it has no model'),
        ("model = dict(type='Net')", 'it has no train_dataloader, no train_c'),
        (half, 'it has val_dataloader, but no val_cfg'),
    ):
        path.write_text(text)
        with pytest.raises(SystemExit) as info:
            train.main([str(path), '--amp', '--auto-scale-lr'])
        assert info.value.code.startswith(f'error: config={str(path)!r}: ')
        assert found in info.value.code
    argv = [str(path), '--no-validate']
    cfg = train.configure(train.parse_args(argv))
    assert cfg.val_dataloader is None


def test_errors_are_one_line(train, tmp_path):
    with pytest.raises(SystemExit) as info:
        train.main([str(tmp_path / 'gone.py')])
    assert info.value.code.startswith('error: config=')
    assert info.value.code.endswith(
        'gone.py does not exist; give the path of a config'
    )
