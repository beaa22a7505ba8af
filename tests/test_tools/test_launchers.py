# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'

# Stands in for srun and python: prints its arguments, one on a line.
ECHO = '#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n'

# A run of MMEngine alone: to import mmpretrain would take longer.
CONFIG = """
custom_imports = dict(imports=['tiny'])
model = dict(type='Line')
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(type='Ones'),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
"""
TINY = """
import torch
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn


@MODELS.register_module()
class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, x, mode):
        return dict(loss=self.line(torch.stack(x)).mean())


@DATASETS.register_module()
class Ones:
    def __len__(self):
        return 7

    def __getitem__(self, index):
        return dict(x=torch.ones(1))
"""


def run(script, *argv, **environ):
    return subprocess.run(
        [TOOLS / script, *map(str, argv)],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
    )


@pytest.fixture
def echo(tmp_path):
    path = tmp_path / 'srun'
    path.write_text(ECHO)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    'script',
    ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'],
)
def test_too_few_arguments(script):
    result = run(script, 'config.py')
    assert result.returncode == 2
    assert f'usage: tools/{script}' in result.stderr


@pytest.mark.parametrize(
    ('script', 'argv', 'command'),
    [
        (
            'dist_train.sh',
            ['my config.py', '4', '--amp'],
            ['train.py', 'my config.py', '--launcher', 'pytorch', '--amp'],
        ),
        (
            'dist_test.sh',
            ['c.py', 'a.pth', '4', '--tta'],
            ['test.py', 'c.py', 'a.pth', '--launcher', 'pytorch', '--tta'],
        ),
    ],
)
def test_dist_command(echo, script, argv, command):
    result = run(script, *argv, PYTHON=str(echo), PORT='1234', NNODES='2')
    words = result.stdout.splitlines()
    tool = words.index(str(TOOLS / command[0]))
    assert words[:2] == ['-m', 'torch.distributed.run']
    options = dict(zip(words[2:tool:2], words[3:tool:2], strict=True))
    assert options == {
        '--nnodes': '2',
        '--node-rank': '0',
        '--nproc-per-node': '4',
        '--master-addr': '127.0.0.1',
        '--master-port': '1234',
    }
    assert words[tool + 1 :] == command[1:]


@pytest.mark.parametrize(
    ('script', 'last', 'command'),
    [
        (
            'slurm_train.sh',
            'out',
            ['train.py', 'c.py', '--work-dir', 'out', '--launcher', 'slurm'],
        ),
        (
            'slurm_test.sh',
            'a.pth',
            ['test.py', 'c.py', 'a.pth', '--launcher', 'slurm'],
        ),
    ],
)
def test_slurm_command(echo, script, last, command):
    result = run(
        script,
        *('gpus', 'job', 'c.py', last, '--cfg-options', 'a="b c"'),
        PATH=f'{echo.parent}:{os.environ["PATH"]}',
        GPUS='4',
        SRUN_ARGS='--exclusive --quiet',
    )
    words = result.stdout.splitlines()
    tool = words.index(str(TOOLS / command[0]))
    for name, value in {
        '--partition': 'gpus',
        '--job-name': 'job',
        '--gres': 'gpu:4',
        '--ntasks': '4',
        '--ntasks-per-node': '4',
    }.items():
        assert words[words.index(name) + 1] == value
    assert words[tool - 4 : tool] == ['--exclusive', '--quiet', 'python', '-u']
    assert words[tool + 1 :] == [*command[1:], '--cfg-options', 'a="b c"']


def free_port():
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return str(server.getsockname()[1])


def test_two_processes_train_without_a_gpu(tmp_path):
    (tmp_path / 'line.py').write_text(CONFIG)
    (tmp_path / 'tiny.py').write_text(TINY)
    result = run(
        'dist_train.sh',
        *(tmp_path / 'line.py', 2, '--work-dir', tmp_path / 'out'),
        PYTHON=sys.executable,
        PYTHONPATH=os.pathsep.join([str(ROOT), str(tmp_path)]),
        PORT=free_port(),
        CUDA_VISIBLE_DEVICES='',
        OMP_NUM_THREADS='1',
    )
    assert result.returncode == 0, result.stderr[-2000:]
    # 7 numbers in batches of 2 are two steps for each of two processes.
    assert 'Epoch(train) [1][2/2]' in result.stdout + result.stderr
    assert (tmp_path / 'out' / 'epoch_1.pth').exists()
