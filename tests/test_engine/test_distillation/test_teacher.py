# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from teachers import DENSE, PREPROCESSOR, build, config_of, save
from torch import nn

from mmlapp.core import Pruner, PruningError
from mmlapp.engine.distillation.teacher import (
    Teacher,
    TeacherSource,
    digest_of,
    read_teacher,
)
from mmlapp.engine.models.plans import narrow_model, plans_of

IMAGES = torch.randn(2, 3, 8, 8)


def read(path: str, run: Config, config: Any = None) -> Teacher:
    return read_teacher(TeacherSource(path, config), run)


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    expected.eval()
    torch.testing.assert_close(found(IMAGES), expected(IMAGES))


@pytest.fixture
def narrow() -> nn.Module:
    """A pruned model, narrow, as it is in a run after the phase."""
    model = build(config_of())
    model.pruner.begin({'flops': 0.5}, 1)
    model.pruner.finish()
    return narrow_model(model, model.pruner.plan())


def test_dense_weights_with_the_config_of_the_run(checkpoint: str) -> None:
    """A teacher of the run's architecture has neither pruner nor masks."""
    teacher = read(checkpoint, config_of())
    assert_same(teacher.model, build(config_of(prunable=False)))
    assert not any(isinstance(m, Pruner) for m in teacher.model.modules())
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert len(teacher.meta['dataset_meta']['classes']) == 10


@pytest.mark.parametrize('inline', [True, False])
def test_a_config_of_its_own(
    tmp_path: Path, checkpoint: str, inline: bool
) -> None:
    dense = config_of(prunable=False)
    dense.dump(tmp_path / 'dense.py')
    config = dense.to_dict() if inline else str(tmp_path / 'dense.py')
    other = Config(dict(default_scope='mmpretrain', model=dict(type='X')))
    assert_same(read(checkpoint, other, config).model, build(dense))


def test_preprocessing_is_the_runs_where_the_config_says_none(
    checkpoint: str,
) -> None:
    own = dict(model=DENSE, data_preprocessor=dict(mean=[1.0], std=[2.0]))
    for config, mean in (
        (dict(model=DENSE), PREPROCESSOR['mean']),
        (own, [1.0]),
    ):
        teacher = read(checkpoint, config_of(), config)
        found = teacher.model.data_preprocessor.mean
        assert found.flatten().tolist() == mean


def test_a_pruned_teacher_keeps_its_widths(
    tmp_path: Path, narrow: nn.Module
) -> None:
    path = save(tmp_path / 'narrow.pth', narrow)
    teacher = read(path, config_of())
    assert_same(teacher.model, narrow)
    assert teacher.model.backbone.layer1[0].conv1.out_channels < 16


def test_a_pruned_teacher_needs_the_config_that_pruned_it(
    tmp_path: Path, narrow: nn.Module
) -> None:
    path = save(tmp_path / 'narrow.pth', narrow)
    with pytest.raises(PruningError, match=r'pruned model.*ImageClassifier'):
        read(path, config_of(prunable=False))


def test_a_deployed_run_has_a_dense_teacher_too(
    tmp_path: Path, checkpoint: str, narrow: nn.Module
) -> None:
    """Of its own weights the teacher is narrow, of dense ones dense."""
    run = config_of()
    run.model.update(
        type='mmlapp.DeployedModel', plan=plans_of(narrow)[0].to_json()
    )
    del run.model['input_shape']
    dense = build(config_of(prunable=False))
    assert_same(read(checkpoint, run).model, dense)
    path = save(tmp_path / 'small.pth', narrow)
    assert_same(read(path, run).model, narrow)


def test_narrow_weights_without_their_plan_are_refused(
    tmp_path: Path, narrow: nn.Module
) -> None:
    weights = narrow.state_dict()
    del weights['pruning_plans']
    path = tmp_path / 'lost.pth'
    torch.save({'state_dict': weights}, path)
    for config in (config_of(), config_of(prunable=False)):
        with pytest.raises(
            PruningError, match=r'lost\.pth.*conv1.*lost the plan'
        ):
            read(str(path), config)


def test_no_layer_keeps_random_weights(
    tmp_path: Path, checkpoint: str
) -> None:
    weights = torch.load(checkpoint)['state_dict']
    del weights['head.fc.bias']
    path = tmp_path / 'part.pth'
    torch.save(weights, path)  # without `state_dict`, as others publish
    with pytest.raises(PruningError, match=r'part\.pth.*head\.fc\.bias'):
        read(str(path), config_of())


def test_there_is_no_such_file(checkpoint: str) -> None:
    with pytest.raises(PruningError, match=r'teacher checkpoint=.*no such'):
        read('nowhere.pth', config_of())
    with pytest.raises(PruningError, match=r'nowhere\.py'):
        read(checkpoint, config_of(), 'nowhere.py')


def test_a_run_without_a_config_says_so(checkpoint: str) -> None:
    with pytest.raises(PruningError, match='config of the run has no model'):
        read(checkpoint, Config())


@pytest.mark.parametrize(
    ('teacher', 'text'),
    [
        (None, r"teacher=None: expected 'dense'"),
        ('dense.pth', r"teacher='dense\.pth': expected .*checkpoint="),
        (dict(), r'checkpoint=None: a teacher without weights'),
        (dict(checkpoint=''), r"checkpoint='': a teacher without weights"),
        (dict(checkpont='a.pth'), r"'checkpont'; did you mean checkpoint"),
        (dict(checkpoint='a.pth', config=3), r'teacher config=3: expected'),
    ],
)
def test_other_forms_are_refused(teacher: Any, text: str) -> None:
    with pytest.raises(PruningError, match=text):
        TeacherSource.read(teacher)


def test_what_a_config_may_say() -> None:
    assert TeacherSource.read('dense').is_dense
    found = TeacherSource.read(dict(checkpoint='dense', config='a.py'))
    assert found == TeacherSource('dense', 'a.py')
    assert not found.is_dense


def test_the_digest_tells_weights_apart() -> None:
    weights = {'a': torch.arange(6.0), 'b': torch.tensor(2)}
    others = [
        {**weights, 'a': weights['a'] + 1e-6},
        {**weights, 'a': weights['a'].reshape(2, 3)},
        {**weights, 'b': torch.tensor(2, dtype=torch.int32)},
        {'c': weights['a'], 'b': weights['b']},
        {'a': weights['a']},
    ]
    known = {digest_of(each) for each in (weights, *others)}
    assert len(known) == 6
    copied = {name: value.clone() for name, value in weights.items()}
    assert digest_of(copied) == digest_of(weights)
