# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import os
from argparse import ArgumentParser

import pytest
from mmengine.config import Config

from mmlapp.core import PruningError
from mmlapp.engine import launch


@pytest.fixture
def load(tmp_path):
    def run(*argv, text='lr = 0.1'):
        path = tmp_path / 'recipe.py'
        path.write_text(text)
        parser = ArgumentParser()
        launch.add_launch_arguments(parser)
        return launch.load_config(parser.parse_args([str(path), *argv]))

    return run


def test_work_dir_is_named_after_the_config(load):
    assert load().work_dir == os.path.join('work_dirs', 'recipe')


def test_work_dir_of_the_config_goes_before_its_name(load):
    assert load(text="work_dir = 'there'").work_dir == 'there'


def test_work_dir_of_the_command_line_goes_first(load):
    argv = ['--work-dir', 'here', '--cfg-options', 'work_dir=nowhere']
    assert load(*argv, text="work_dir = 'there'").work_dir == 'here'


def test_cfg_options_reach_nested_keys(load):
    argv = ['--cfg-options', 'optimizer.lr=0.5', 'size="[(1,2)]"']
    cfg = load(*argv, text='optimizer = dict(lr=0.1, momentum=0.9)')
    assert cfg.optimizer == {'lr': 0.5, 'momentum': 0.9}
    assert cfg.size == [(1, 2)]


@pytest.mark.parametrize('option', ['--local_rank', '--local-rank'])
def test_local_rank_reaches_the_environment(load, monkeypatch, option):
    monkeypatch.setattr(os, 'environ', {})
    load(option, '3')
    assert os.environ == {'LOCAL_RANK': '3'}


def test_local_rank_of_the_environment_goes_first(load, monkeypatch):
    monkeypatch.setattr(os, 'environ', {'LOCAL_RANK': '1'})
    load('--local-rank', '3')
    assert os.environ == {'LOCAL_RANK': '1'}


def test_loaders_of_mmpretrain_are_completed():
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            train_dataloader=dict(num_workers=2, collate_fn='mine'),
            val_dataloader=dict(num_workers=0),
            test_dataloader=None,
        )
    )
    launch.set_loader_defaults(cfg)
    assert cfg.train_dataloader.collate_fn == 'mine'
    assert cfg.train_dataloader.persistent_workers is True
    assert cfg.val_dataloader.collate_fn == {'type': 'default_collate'}
    assert cfg.val_dataloader.persistent_workers is False
    assert cfg.test_dataloader is None


def test_loaders_of_other_scopes_are_left_alone():
    cfg = Config(dict(default_scope='mmdet', train_dataloader=dict(a=1)))
    launch.set_loader_defaults(cfg)
    assert cfg.train_dataloader == {'a': 1}


@pytest.fixture
def process_groups(monkeypatch):
    started = []
    monkeypatch.setattr(
        launch.distributed,
        'init_process_group',
        lambda backend, timeout: started.append(
            (backend, timeout.total_seconds())
        ),
    )
    return started


def test_processes_without_gpu_use_gloo(monkeypatch, process_groups):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    cfg = Config(
        dict(
            launcher='pytorch',
            env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=60)),
            find_unused_parameters=True,
        )
    )
    launch.start_cpu_processes(cfg)
    assert process_groups == [('gloo', 60)]
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    assert cfg.model_wrapper_cfg == {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': True,
        'device_ids': None,
    }


def test_the_wrapper_of_the_config_is_kept(monkeypatch, process_groups):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    cfg = Config(
        dict(launcher='pytorch', model_wrapper_cfg=dict(type='Mine', a=1))
    )
    launch.start_cpu_processes(cfg)
    wrapper = {'type': 'Mine', 'a': 1, 'device_ids': None}
    assert cfg.model_wrapper_cfg == wrapper


@pytest.mark.parametrize(
    ('launcher', 'device'), [('none', 'cpu'), ('pytorch', 'cuda')]
)
def test_other_runs_are_left_to_mmengine(
    monkeypatch, process_groups, launcher, device
):
    monkeypatch.setattr(launch, 'get_device', lambda: device)
    cfg = Config(dict(launcher=launcher))
    launch.start_cpu_processes(cfg)
    assert process_groups == []
    assert 'model_wrapper_cfg' not in cfg


def test_slurm_without_gpu_is_refused(monkeypatch, process_groups):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    with pytest.raises(ValueError, match="launcher='slurm' needs a GPU"):
        launch.start_cpu_processes(Config(dict(launcher='slurm')))
    assert process_groups == []


@pytest.mark.parametrize('inner', ['', 'a/b'])
def test_a_work_dir_that_cannot_be_one(tmp_path, inner):
    """Before a model is built; root may write everywhere but in a file."""
    path = tmp_path / 'file'
    path.touch()
    cfg = Config(dict(work_dir=str(path / inner), launcher='none'))
    with pytest.raises(PruningError, match=r"work_dir='.*(a file|Not a dir)"):
        launch.build_runner(cfg)
    launch.check_work_dir(tmp_path / 'new' / 'dir')
    assert not list((tmp_path / 'new' / 'dir').iterdir())
