# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""No way to load a checkpoint runs the code in it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, Runner

from mmlapp.core import PruningError
from mmlapp.engine.checkpoints.checked_loading import (
    check_loading,
    checked_loading,
)
from mmlapp.engine.launch import build_runner

MakeRunner = Callable[..., Runner]


class Command:
    """Pickles to a call that would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    data = {'state_dict': {}, 'meta': {}, 'x': Command(tmp_path / 'made')}
    path = tmp_path / 'evil.pth'
    torch.save(data, path)
    return path


def named(resume: bool, path: Path) -> Callable[[dict[str, Any]], None]:
    return lambda config: config.update(load_from=str(path), resume=resume)


@pytest.mark.parametrize('resume', [True, False])
def test_the_hook_is_enough(
    make_runner: MakeRunner, evil: Path, resume: bool
) -> None:
    runner = make_runner(named(resume, evil))
    with pytest.raises(PruningError, match=r"evil\.pth' holds objects"):
        runner.train()
    assert not (evil.parent / 'made').exists()


def test_pretrained_parts_are_checked(
    make_runner: MakeRunner, evil: Path
) -> None:
    def pretrained(config: dict[str, Any]) -> None:
        config['model']['backbone']['init_cfg'] = dict(
            type='Pretrained', checkpoint=str(evil)
        )

    runner = make_runner(pretrained)
    with pytest.raises(PruningError, match=r"evil\.pth' holds objects"):
        runner.train()
    assert not (evil.parent / 'made').exists()


def test_the_tools_need_no_hook(make_runner: MakeRunner, evil: Path) -> None:
    class Built(Runner):
        """As the tools build it, of the same config."""

        def __new__(cls, **config: Any) -> Any:
            return build_runner(Config({**config, 'launcher': 'none'}))

    runner: Any = make_runner(named(False, evil), kind=Built, plain=True)
    with pytest.raises(PruningError, match=r"evil\.pth' holds objects"):
        runner.train()
    assert not (evil.parent / 'made').exists()


def test_a_damaged_file_is_refused_before_anything_is_loaded(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make_runner()
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': runner.model.state_dict()}, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    check_loading(runner)
    with pytest.raises(PruningError, match=r"a\.pth' cannot be read"):
        runner.load_checkpoint(str(path))
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize('key', ['state_dict', 'ema_state_dict'])
@pytest.mark.parametrize('tools', [True, False])
def test_weights_that_are_no_numbers(
    make_runner: MakeRunner, tmp_path: Path, key: str, tools: bool
) -> None:
    """Whatever is done with them; both are checked, model and average."""

    def averaged(config: dict[str, Any]) -> None:
        config['custom_hooks'].append(dict(type='EMAHook'))

    make_runner(averaged, epochs=1, plain=True).train()
    path = tmp_path / 'epoch_1.pth'
    data = torch.load(path, weights_only=False)
    for name, value in data[key].items():
        if name.endswith('layer1.0.bn1.running_var'):
            value[3] = float('inf')
    torch.save(data, path)

    class Built(Runner):
        def __new__(cls, **config: Any) -> Any:
            return build_runner(Config({**config, 'launcher': 'none'}))

    def loaded(config: dict[str, Any]) -> None:
        averaged(config)
        config['load_from'] = str(path)

    kind = Built if tools else Runner
    runner: Any = make_runner(loaded, kind=kind, plain=tools)
    text = r'layer1\.0\.bn1\.running_var is not finite: .* had diverged. Give'
    with pytest.raises(PruningError, match=text):
        runner.train()


def test_text_in_a_checkpoint_is_not_run(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    """MMEngine takes `meta.config` for a config, and runs it."""
    make_runner(epochs=2).train()
    path, made = tmp_path / 'epoch_1.pth', tmp_path / 'made'
    data = torch.load(path, weights_only=False)
    data['meta']['config'] = f'import os\nos.mkdir({str(made)!r})'
    torch.save(data, path)
    make_runner(named(True, path), epochs=2).train()
    assert not made.exists()


def test_whole_files_are_loaded_in_either_format(tmp_path: Path) -> None:
    data = {'state_dict': {'w': torch.ones(2)}}
    for new in (True, False):
        path = tmp_path / 'a.pth'
        torch.save(data, path, _use_new_zipfile_serialization=new)
        with checked_loading():
            found = CheckpointLoader.load_checkpoint(str(path), 'cpu')
        assert found['state_dict']['w'].tolist() == [1, 1]


def test_other_loading_stays_as_it_was(tmp_path: Path) -> None:
    before = dict(CheckpointLoader._schemes)
    with checked_loading():
        with checked_loading():
            pass
        remote = CheckpointLoader._get_checkpoint_loader('https://a/b.pth')
        assert remote is before['https://']
        with pytest.raises(PruningError, match='there is no such file'):
            CheckpointLoader.load_checkpoint(str(tmp_path / 'none.pth'))
    assert dict(CheckpointLoader._schemes) == before
    path = tmp_path / 'a.pth'
    path.write_bytes(b'text')
    with pytest.raises(PruningError), checked_loading():
        CheckpointLoader.load_checkpoint(str(path))
    assert dict(CheckpointLoader._schemes) == before
