# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import ImageClassifier
from torch import nn

from mmlapp.core import ChannelPlan, PruningError
from mmlapp.core.plan.kept import Kept
from mmlapp.core.plan.layout import tensor_shapes
from mmlapp.engine import deployed_model
from mmlapp.engine.models.plans import KEY, narrow_model

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


def build(plan=PLAN.to_dict(), **kwargs):  # noqa: B008, not changed
    config = dict(
        type='mmlapp.DeployedModel',
        architecture='ImageClassifier',
        plan=plan,
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


@pytest.mark.parametrize(
    ('name', 'match'),
    [
        ('prefx', r'prefx=1: mmlapp\.DeployedModel .*did you mean prefix\?'),
        ('plans', r'plans=1: mmlapp\.DeployedModel .*did you mean plan\?'),
        ('depth', r'depth=1: neither mmlapp\.DeployedModel nor ImageClass'),
    ],
)
def test_arguments_that_nobody_takes(name, match):
    with pytest.raises(PruningError, match=match):
        build(**{name: 1})


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
        ({'version': 99}, 'version 99: this release reads version 4'),
        (None, 'plan=None: expected the path of a plan'),
        (3, 'plan=3: expected the path of a plan'),
        ([], r'plan=\[\] is empty: expected'),
        ([1, 'a'], 'plan=1: expected the path of a plan'),
    ],
)
def test_broken_plans(plan, text):
    with pytest.raises(PruningError, match=text):
        build(plan)


@pytest.fixture
def classifier(tmp_path):
    """A pruned ResNet-8 with its plan and its weights in files."""
    model = MODELS.build(
        dict(
            type='mmlapp.PrunableModel',
            architecture='ImageClassifier',
            input_shape=(3, 8, 8),
            **SETTINGS,
        )
    )
    model.pruner.begin({'flops': 0.5}, steps=1)
    model.pruner.step()
    model.pruner.plan().save(tmp_path / 'slim.plan.json')
    narrow_model(model, model.pruner.plan()).eval()
    weights = {'state_dict': model.state_dict()}
    torch.save(weights, tmp_path / 'slim.pth')
    return model


def part(tmp_path, **settings):
    checkpoint = str(tmp_path / 'slim.pth')
    config = dict(
        type='mmlapp.DeployedModel',
        architecture='mmlapp.CIFARResNet',
        depth=8,
        plan=str(tmp_path / 'slim.plan.json'),
        prefix='backbone.',
        input_shape=(3, 8, 8),
        init_cfg=dict(
            type='Pretrained', checkpoint=checkpoint, prefix='backbone.'
        ),
    )
    return {**config, **settings}


def test_a_backbone_is_used_elsewhere(classifier, tmp_path, monkeypatch):
    """With outputs of all stages, whose widths the log tells."""
    told = []
    monkeypatch.setattr(
        'mmlapp.engine.models.deployed.print_log',
        lambda text, logger: told.append(text),
    )
    backbone = MODELS.build(part(tmp_path, out_indices=(0, 1, 2)))
    backbone.init_weights()
    image = torch.rand(2, 3, 8, 8)
    *_, stage2, last = backbone.eval()(image)
    assert torch.equal(last, classifier.backbone(image)[-1])
    widths = [backbone.layer1[0].conv2.out_channels, stage2.shape[1]]
    text = f'in_channels=[{widths[0]}, {widths[1]}, {last.shape[1]}]'
    assert told == [f'DeployedModel: outputs of CIFARResNet: {text}']
    # Inside of another model, its plan goes where the backbone is.
    whole = nn.Module()
    whole.backbone = backbone
    assert f'backbone.{KEY}' in whole.state_dict()
    whole.load_state_dict(whole.state_dict())


def test_a_backbone_that_is_pruned_again_inside(classifier, tmp_path):
    settings = dict(
        SETTINGS,
        backbone=part(tmp_path),
        head=dict(
            type='LinearClsHead',
            num_classes=4,
            in_channels=classifier.head.fc.in_features,
        ),
    )
    config = dict(
        type='mmlapp.PrunableModel',
        architecture='ImageClassifier',
        input_shape=(3, 8, 8),
        **settings,
    )
    model = MODELS.build(config)
    model.init_weights()
    model.pruner.begin({'flops': 0.7}, steps=1)
    model.pruner.step()
    narrow_model(model, model.pruner.plan()).eval()
    image = torch.rand(2, 3, 8, 8)
    again = MODELS.build(config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(image), model(image))


def test_parts_that_a_plan_does_not_have(classifier, tmp_path):
    with pytest.raises(PruningError, match="prefix='neck': the plan has no"):
        MODELS.build(part(tmp_path, prefix='neck'))
    with pytest.raises(PruningError, match='plan does not fit the model'):
        MODELS.build(part(tmp_path, depth=14))
