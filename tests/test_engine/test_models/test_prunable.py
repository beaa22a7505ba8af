# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
import subprocess
import sys
from dataclasses import replace
from inspect import signature

import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from mmpretrain.models import ImageClassifier
from torch import nn

from mmlapp.core import PruningError, attach, narrow
from mmlapp.engine import prunable_model
from mmlapp.engine.models.modes import running_steps
from mmlapp.engine.models.prunable import check_removable

SETTINGS = dict(
    backbone=dict(type='mmlapp.CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def scope():
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def test_defaults_are_those_of_attach():
    """But for the scope, which is a backbone here."""
    here, core = signature(prunable_model), signature(attach)
    shared = set(here.parameters) & set(core.parameters) - {'scope'}
    assert {'unit', 'method', 'score', 'costs', 'divisor'} < shared
    assert {'min_keep', 'shrink', 'protect'} < shared
    for name in shared:
        default = here.parameters[name].default
        assert default == core.parameters[name].default, name


def build(**kwargs):
    config = dict(
        type='mmlapp.PrunableModel',
        architecture='ImageClassifier',
        input_shape=SHAPE,
        **SETTINGS,
    )
    return MODELS.build({**config, **kwargs})


class SideHead(BaseModel):
    """A classifier with a second head on an earlier stage."""

    def __init__(self, only):
        super().__init__()
        self.only = only
        self.backbone = nn.ModuleList(
            [nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3)]
        )
        self.fc, self.side = nn.Linear(8, 5), nn.Linear(16, 5)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        early = self.backbone[0](inputs)
        late = self.backbone[1](early.relu())
        out = self.fc(late.mean((2, 3)))
        if mode == self.only:
            out = out + self.side(early.mean((2, 3)))
        return dict(loss=out.mean()) if mode == 'loss' else out


def removed(model):
    """Narrows a model to half of its channels."""
    pruner = model.pruner
    pruner.set_mask(
        torch.cat([torch.arange(size) % 2 == 0 for size in pruner.sizes])
    )
    return narrow(model, pruner.plan())


@pytest.mark.parametrize('only', ['loss', 'predict'])
def test_what_only_another_mode_runs_is_narrowed_with_it(only):
    MODELS.register_module(module=SideHead, name='TestSideHead', force=True)
    model = removed(
        prunable_model('TestSideHead', only=only, input_shape=SHAPE)
    )
    assert model.backbone[0].out_channels == model.side.in_features == 8
    for mode in ('tensor', 'loss', 'predict'):
        model(torch.rand(2, *SHAPE), mode=mode)


def test_streams_are_left_whole_where_that_is_asked_for():
    pruner = build(keep_streams=True).pruner
    assert [g.name for g in pruner.groups] == [
        f'backbone.layer{stage}.0.conv1' for stage in (1, 2, 3)
    ]
    assert pruner.settings['keep_streams'] is True
    with pytest.raises(PruningError, match='keep_streams=1: expected True'):
        build(keep_streams=1)


MLP = dict(type='NonLinearNeck', hid_channels=32, out_channels=16)
CONTRAST = dict(type='CosineSimilarityLoss')
BYOL = dict(
    type='BYOL',
    backbone=dict(type='mmlapp.CIFARResNet', depth=8),
    neck=dict(MLP, in_channels=64),
    head=dict(
        type='LatentPredictHead',
        loss=CONTRAST,
        predictor=dict(MLP, in_channels=16, with_avg_pool=False),
    ),
)


def test_a_momentum_encoder_keeps_the_shape_of_its_original():
    model = prunable_model(BYOL, input_shape=SHAPE)
    views = [torch.rand(4, *SHAPE) for _ in range(2)]

    def step():
        with running_steps():
            sum(model(list(views), mode='loss').values()).backward()

    step()
    before = model.target_net.module[0].layer1[0].conv1.weight[::2].clone()
    removed(model)
    after = model.target_net.module[0].layer1[0].conv1.weight
    assert torch.equal(after, before)
    step()
    # An average of both, parameter by parameter.
    names = model.target_net.avg_parameters
    assert names['0.layer1.0.conv1.weight'] is after
    assert not torch.equal(after, before)
    assert after.shape == model.backbone.layer1[0].conv1.weight.shape


class Fusion(BaseModel):
    """Two modalities."""

    def __init__(self):
        super().__init__()
        self.backbone, self.depth = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 8, 3)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        both = self.backbone(inputs['rgb']), self.depth(inputs['depth'])
        return self.head(torch.cat(both, dim=1))


def test_inputs_with_names():
    MODELS.register_module(module=Fusion, name='TestFusion', force=True)
    shapes = dict(rgb=[3, 8, 8], depth=[1, 8, 8])
    model = prunable_model('TestFusion', input_shape=shapes)
    assert model.pruner.input_shape == dict(rgb=(3, 8, 8), depth=(1, 8, 8))
    assert removed(model).head.in_channels == 12
    model(dict(rgb=torch.rand(1, 3, 9, 9), depth=torch.rand(1, 1, 9, 9)))


def dense():
    return MODELS.build(dict(type='ImageClassifier', **SETTINGS))


def losses(model):
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(i) for i in range(2)]
    return model(torch.rand(2, *SHAPE), samples, mode='loss')


def test_class_and_keys_stay():
    model, plain = build(), dense()
    assert type(model) is ImageClassifier
    keys = {k for k in model.state_dict() if not k.startswith('pruner.')}
    assert keys == set(plain.state_dict())
    names = [name for name, _ in model.named_parameters()]
    assert names == [name for name, _ in plain.named_parameters()]
    # A dense checkpoint loads, without the thresholds.
    model.load_state_dict(plain.state_dict())


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_mmengine_misses_nothing_in_dense_weights(capsys, tmp_path, prefix):
    path, weights = str(tmp_path / 'dense.pth'), dense().state_dict()
    torch.save({f'{prefix}{k}': v for k, v in weights.items()}, path)
    load_checkpoint(build(), path)
    assert 'missing' not in capsys.readouterr().out
    # A branch is new, and the user may want to know.
    load_checkpoint(build(bypass='depthwise'), path)
    (line,) = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith('missing keys in source state_dict')
    ]
    assert 'bypass' in line
    assert 'pruner' not in line


def test_before_pruning_it_is_the_dense_model():
    model, plain = build().eval(), dense().eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    image = torch.rand(2, *SHAPE)
    assert torch.equal(
        model(image, mode='tensor'), plain(image, mode='tensor')
    )


def test_flat_and_nested_forms_build_the_same():
    nested = dict(type='ImageClassifier', _scope_='mmpretrain', **SETTINGS)
    config = dict(
        type='mmlapp.PrunableModel', architecture=nested, input_shape=SHAPE
    )
    # The scope inside counts, whatever the default is.
    with DefaultScope.overwrite_default_scope('mmengine'):
        model = MODELS.build(config)
    assert repr(model) == repr(build())
    # The config stays as it was, for the Runner to dump.
    assert nested['_scope_'] == 'mmpretrain'
    assert config['architecture'] is nested


def test_whole_config_and_arguments_exclude_each_other():
    nested = dict(type='ImageClassifier', **SETTINGS)
    with pytest.raises(PruningError, match=r"arguments \['train_cfg'\]: arch"):
        prunable_model(nested, train_cfg={})


GRADIENT = dict(type='lapp', update='gradient')


@pytest.mark.parametrize('phase', ['dense', 'pruning', 'finished'])
def test_the_loss_counts_in_the_pruning_phase(phase):
    model = build(method=GRADIENT)
    if phase != 'dense':
        model.pruner.begin({'flops': 0.5}, steps=2)
        model.pruner.progress = replace(model.pruner.progress, done=1)
    if phase == 'finished':
        model.pruner.finish()
    found = losses(model)
    assert ('loss_pruning' in found) == (phase == 'pruning')
    assert found.get('loss_pruning', 1) > 0


@MODELS.register_module(name='TestRunsItself', force=True)
class RunsItself(BaseModel):
    """Runs itself on two views, and goes over its children."""

    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))

    def forward(self, inputs, data_samples=None, mode='tensor', views=True):
        if mode == 'loss' and views:
            first, other = (
                self(x, mode=mode, views=False) for x in (inputs, -inputs)
            )
            return {'loss': first['loss'] + other['loss']}
        *_, last = self.children()
        return (
            {'loss': last(inputs).mean()} if mode == 'loss' else last(inputs)
        )


def test_the_loss_counts_where_a_model_runs_itself():
    model = prunable_model(
        'mmlapp.TestRunsItself', method=GRADIENT, input_shape=SHAPE
    )
    model.pruner.begin({'flops': 0.5}, steps=2)
    found = model(torch.rand(2, *SHAPE), mode='loss')
    assert set(found) == {'loss', 'loss_pruning'}


def test_the_loss_reaches_the_thresholds_alone():
    model = build(method=GRADIENT)
    model.pruner.begin({'flops': 0.5}, steps=2)
    model.pruner.progress = replace(model.pruner.progress, done=1)
    # Where no channel lies near its threshold, nothing would learn.
    model.pruner.method.slope.fill_(1.0)
    losses(model)['loss_pruning'].backward()
    assert (model.pruner.method.threshold.grad < 0).all()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize('method', ['lapp', 'uniform', 'ranking'])
def test_a_method_without_a_loss_adds_none(method):
    model = build(method=method)
    model.pruner.begin({'flops': 0.5}, steps=2)
    assert set(losses(model)) == {'loss'}


@pytest.mark.parametrize('mode', ['tensor', 'predict'])
def test_other_modes_have_no_loss(mode):
    model = build().eval()
    model.pruner.begin({'flops': 0.5}, steps=1)
    output = model(torch.rand(2, *SHAPE), mode=mode)
    assert not isinstance(output, dict)


def test_the_data_preprocessor_is_passed_on():
    top = dict(type='ClsDataPreprocessor', mean=[1.0] * 3, std=[2.0] * 3)
    model = build(data_preprocessor=top)
    assert model.data_preprocessor.mean.flatten().tolist() == [1.0] * 3
    own = dict(type='ClsDataPreprocessor', mean=[5.0] * 3, std=[2.0] * 3)
    nested = dict(type='ImageClassifier', data_preprocessor=own, **SETTINGS)
    model = prunable_model(nested, input_shape=SHAPE, data_preprocessor=top)
    assert model.data_preprocessor.mean.flatten().tolist() == [5.0] * 3


@pytest.mark.parametrize(
    ('setting', 'text'),
    [
        (dict(score='l3'), "score='l3' is unknown; choose one of: .*l1"),
        (dict(method='magic'), "method='magic' is unknown; choose"),
        (
            dict(method=dict(type='lapp', surrogate='step')),
            "surrogate='step' is unknown; choose",
        ),
        (dict(unit='rows'), "unit='rows' is unknown; choose"),
        (dict(costs=['time']), "cost='time' is unknown; choose"),
        (dict(bypass=dict(type='wide')), "bypass='wide' is unknown; choose"),
        (dict(scope='encoder'), "scope='encoder' matches no .* backbone"),
        (dict(input_shape=(3, 0)), r'input_shape=\(3, 0\): expected the sh'),
        (dict(divisor=64), 'divisor=64: no group has more than 64 channels'),
        (dict(min_keep=1), 'min_keep=1 with divisor=1: every group keeps all'),
        (
            dict(min_keep=0.6, divisor=32),
            'min_keep=0.6 with divisor=32: every group keeps all',
        ),
        (dict(min_keep=2), 'min_keep=2: expected a number from 0 to 1'),
        (
            dict(divsor=8),
            'divsor=8: .* no such argument; did you mean div',
        ),
        (
            dict(neckk=None),
            'neckk=None: neither .* nor ImageCl',
        ),
        (dict(bypass=['depthwise']), r"bypass=\['depthwise'\]: expected one"),
        (dict(input_shape=(1, 8, 8)), r'does not run .* input_shape=\(1, 8'),
    ],
)
def test_wrong_settings(setting, text):
    with pytest.raises(PruningError, match=text):
        build(**setting)


def test_a_divisor_of_channels_lets_heads_go():
    """Four heads of 16 channels each are no fewer than 16."""
    layer = nn.TransformerEncoderLayer(64, 4, 8, batch_first=True)
    pruner = attach(layer, torch.rand(1, 3, 64), scope='self_attn', divisor=16)
    assert pruner.sizes == [4]
    check_removable(pruner)


def test_a_divisor_that_is_too_large_names_all_channels():
    """Four groups of three of a norm are twelve channels."""
    model = nn.Sequential(
        nn.Conv2d(3, 12, 1), nn.GroupNorm(4, 12), nn.Conv2d(12, 5, 1)
    )
    pruner = attach(model, torch.rand(1, 3, 4, 4), divisor=12)
    with pytest.raises(PruningError, match='no group has more than 12 chann'):
        check_removable(pruner)


CODE = """
import sys
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from torch import nn


@MODELS.register_module()
class Pair(BaseModel):
    def __init__(self):
        super().__init__()
        self.pair = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.pair(inputs)


cfg = Config.fromfile(sys.argv[1])
print('mmlapp' in sys.modules)
init_default_scope(cfg.default_scope)
model = MODELS.build(cfg.model)
print(type(model).__name__, model.pruner.sizes)
print('torch._dynamo' in sys.modules)
"""


def test_a_config_needs_no_custom_imports_and_no_compiler(tmp_path):
    """The scope in the name of the type is enough."""
    config = dict(
        default_scope='mmengine',  # to import mmpretrain takes longer
        model=dict(
            type='mmlapp.PrunableModel',
            architecture='Pair',
            scope='pair',
            input_shape=(3, 4, 4),
        ),
    )
    path = tmp_path / 'config.py'
    Config(config).dump(path)
    run = subprocess.run(
        [sys.executable, '-c', CODE, str(path)],
        capture_output=True,
        text=True,
    )
    found = [line for line in run.stdout.splitlines() if 'OneDL' not in line]
    assert found == ['False', 'Pair [4]', 'False'], run.stderr


def test_norms_are_folded_after_narrowing_and_not_before():
    """By the function that mmdet's and mmpretrain's tools call."""
    torch.manual_seed(0)
    model = build().eval()
    model.pruner.begin({'flops': 0.5}, 1)
    model.pruner.finish()
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(PruningError, match=r'of type Identity .*fuse_conv_bn'):
        fuse_conv_bn(copy.deepcopy(model))(images)
    slim = narrow(model, model.pruner.plan())
    expected = slim(images)
    found = fuse_conv_bn(slim)(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
