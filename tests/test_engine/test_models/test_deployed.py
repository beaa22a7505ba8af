# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import ImageClassifier

from mmlapp.core import ChannelPlan, PruningError
from mmlapp.core.plan.kept import Kept
from mmlapp.core.plan.layout import tensor_shapes
from mmlapp.engine import deployed_model
from mmlapp.engine.models.plans import KEY

SETTINGS = dict(
    backbone=dict(type='mmlapp.CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
LAYER = 'backbone.layer1.0'
with DefaultScope.overwrite_default_scope('mmpretrain'):
    DENSE = MODELS.build(dict(type='ImageClassifier', **SETTINGS))
# the eight first of the sixteen inner channels of the first block
KEPT = Kept(16, tuple(range(8)))
PLAN = ChannelPlan(
    groups={f'{LAYER}.conv1': KEPT},
    slices={
        f'{LAYER}.conv1.weight': {0: KEPT},
        f'{LAYER}.bn1.weight': {0: KEPT},
        f'{LAYER}.bn1.bias': {0: KEPT},
        f'{LAYER}.bn1.running_mean': {0: KEPT},
        f'{LAYER}.bn1.running_var': {0: KEPT},
        f'{LAYER}.conv2.weight': {1: KEPT},
    },
    shapes=tensor_shapes(DENSE),
)


@pytest.fixture(autouse=True)
def scope():
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def build(plan=None, **kwargs):
    config = dict(
        type='mmlapp.DeployedModel',
        architecture='ImageClassifier',
        plan=PLAN.to_dict() if plan is None else plan,
        **SETTINGS,
    )
    return MODELS.build({**config, **kwargs})


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_it_is_the_architecture_only_narrower():
    model = build()
    dense = MODELS.build(dict(type='ImageClassifier', **SETTINGS))
    assert type(model) is ImageClassifier
    assert list(model.state_dict()) == [*dense.state_dict(), KEY]
    block = model.backbone.layer1[0]
    assert (block.conv1.out_channels, block.conv2.in_channels) == (8, 8)
    assert block.bn1.num_features == 8
    # eight filters of 16x3x3, eight scales and shifts, eight inputs of 16
    assert parameters(dense) - parameters(model) == 8 * (16 * 9 * 2 + 2)
    assert model.eval()(torch.rand(1, 3, 8, 8), mode='tensor').shape == (1, 10)


@pytest.mark.parametrize('form', ['dict', 'text', 'file', 'config'])
def test_forms_of_the_plan(form, tmp_path):
    path = tmp_path / 'a.plan.json'
    PLAN.save(path)
    plan = {
        'dict': PLAN.to_dict(),
        'text': PLAN.to_json(),
        'file': str(path),
        'config': Config(dict(plan=PLAN.to_dict())).plan,
    }[form]
    assert build(plan).backbone.layer1[0].conv1.out_channels == 8


def test_nested_form_and_data_preprocessor():
    top = dict(type='ClsDataPreprocessor', mean=[1.0] * 3, std=[2.0] * 3)
    model = deployed_model(
        dict(type='ImageClassifier', _scope_='mmpretrain', **SETTINGS),
        PLAN.to_dict(),
        data_preprocessor=top,
    )
    assert model.backbone.layer1[0].conv1.out_channels == 8
    assert model.data_preprocessor.mean.flatten().tolist() == [1.0] * 3


def test_a_plan_for_another_model():
    backbone = dict(type='mmlapp.CIFARVGG', depth=16)
    head = dict(type='LinearClsHead', num_classes=10, in_channels=512)
    with pytest.raises(PruningError, match='not fit the model: it has no bac'):
        build(backbone=backbone, head=head)


def test_a_plan_for_another_width():
    kept = Kept(32, tuple(range(8)))
    shapes = {**PLAN.shapes, f'{LAYER}.conv1.weight': (32, 16, 3, 3)}
    slices = {f'{LAYER}.conv1.weight': {0: kept}}
    plan = ChannelPlan({}, slices, shapes=shapes)
    text = r'has shape \(16, 16, 3, 3\), the plan expects \(32, 16, 3, 3\)'
    with pytest.raises(PruningError, match=text):
        build(plan.to_dict())


@pytest.mark.parametrize(
    ('plan', 'text'),
    [
        ('nowhere.plan.json', "plan='nowhere.plan.json': there is no such"),
        (PLAN.to_json()[:-9], 'no complete JSON .* may be truncated'),
        ({'groups': {}}, 'no channel plan: it has no version'),
        ({'version': 99}, 'version 99: this release reads version 3'),
    ],
)
def test_broken_plans(plan, text):
    with pytest.raises(PruningError, match=text):
        build(plan)
