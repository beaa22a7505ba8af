# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.runner import Runner

from mmlapp.core import Pruner, PruningError
from mmlapp.engine.distillation.dense import (
    FILE,
    check_dense,
    find_dense,
    keep_dense,
)

Distil = Callable[..., Runner]


def later(config: dict[str, Any]) -> None:
    config['custom_hooks'][0]['begin_iters'] = 2


def test_the_dense_model_is_kept_without_masks(
    distil: Distil, tmp_path: Path
) -> None:
    runner = distil(lambda c: c['model'].update(bypass='pointwise'))
    for parameter in runner.model.parameters():
        parameter.data.normal_(0, 0.1)
    teacher = keep_dense(runner)
    images = torch.randn(2, 3, 8, 8)
    runner.model.eval()
    torch.testing.assert_close(teacher.model(images), runner.model(images))
    assert not any(isinstance(m, Pruner) for m in teacher.model.modules())
    # What trains on does not teach.
    runner.model.head.fc.bias.data += 1
    assert (teacher.model(images) != runner.model(images)).all()
    assert find_dense(runner).digest == teacher.digest
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == [FILE]


def test_it_is_found_beside_the_checkpoint(
    distil: Distil, tmp_path: Path
) -> None:
    runner = distil()
    digest = keep_dense(runner).digest
    other = distil(
        lambda c: c.update(load_from=str(tmp_path / 'epoch_1.pth')),
        kwargs=dict(work_dir=tmp_path / 'other'),
    )
    assert find_dense(other).digest == digest


def test_a_file_that_is_gone_is_named(distil: Distil) -> None:
    with pytest.raises(PruningError, match=rf'{FILE} is gone.*Copy it back'):
        find_dense(distil())


def test_a_full_disk_is_named(
    distil: Distil, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*args: Any) -> None:
        raise OSError('No space left on device')

    runner = distil()
    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(PruningError, match=rf'{FILE} could.*No space.*room'):
        keep_dense(runner)
    assert not list(tmp_path.glob('*.pth'))


def test_random_weights_teach_nothing(distil: Distil) -> None:
    runner = distil()
    with pytest.raises(PruningError, match=r'iteration 0.*begin_iters'):
        check_dense(runner, loaded=False)
    assert check_dense(runner, loaded=True) == 0
    # By its name, or by the class, as a config in pure Python has it.
    for kind in ('Pretrained', PretrainedInit):
        runner.model.init_cfg = dict(type=kind, checkpoint='a.pth')
        assert check_dense(runner, loaded=False) == 0
    assert check_dense(distil(later), loaded=False) == 2


def test_without_a_phase_there_is_no_dense_model(distil: Distil) -> None:
    runner = distil(kwargs=dict(plain=True))
    with pytest.raises(PruningError, match=r'no mmlapp\.PruningHook'):
        check_dense(runner, loaded=True)


def test_a_pruned_model_has_no_dense_one(distil: Distil) -> None:
    runner = distil()
    runner.model.pruner.begin({'flops': 0.5}, 1)
    runner._resume = True
    with pytest.raises(PruningError, match='has begun without a teacher'):
        check_dense(runner, loaded=True)
    runner.model.pruner.finish()
    with pytest.raises(PruningError, match=r'pruned already.*checkpoint='):
        check_dense(runner, loaded=True)


def test_a_run_without_a_config_says_so(distil: Distil) -> None:
    runner = distil()
    runner.cfg.pop('model')
    with pytest.raises(PruningError, match='no config of it'):
        keep_dense(runner)
