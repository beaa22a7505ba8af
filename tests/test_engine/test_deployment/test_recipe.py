# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.config import Config

from mmlapp.core import ChannelPlan, PruningError
from mmlapp.core.plan.kept import Kept
from mmlapp.engine import Distiller, PruningHook
from mmlapp.engine.deployment import recipe

PLAN = ChannelPlan({'a': Kept(4, (0, 2))}, {'a.weight': {0: Kept(4, (0, 2))}})


def config(**changes):
    return Config(
        dict(
            default_scope='mmdet',
            model=dict(
                type='mmlapp.PrunableModel',
                architecture='RetinaNet',
                scope='backbone',
                method=dict(type='lapp', surrogate=dict(type='clipped')),
                divisor=8,
                backbone=dict(
                    type='ResNet',
                    depth=50,
                    init_cfg=dict(type='Pretrained', checkpoint='x'),
                ),
                neck=dict(init_cfg=[dict(type='Xavier')], pretrained='x'),
            ),
            optim_wrapper=dict(
                type='mmlapp.PruningOptimWrapper', optimizer=dict(type='SGD')
            ),
            custom_hooks=[
                dict(type='EMAHook'),
                dict(type='mmlapp.PruningHook', target=dict(flops=0.5)),
                dict(type='mmlapp.RankCheckHook'),
                dict(
                    type='mmlapp.Distiller',
                    teacher=dict(checkpoint='dense.pth'),
                ),
            ],
            default_hooks=dict(pruner=dict(type='PruningHook'), timer=dict()),
            load_from='x.pth',
            resume=True,
            work_dir='w',
            **changes,
        )
    )


def test_the_deployed_config():
    cfg = config()
    found = recipe.deployed_config(cfg, PLAN)
    model = found.model
    assert model.type == 'mmlapp.DeployedModel'
    assert model.architecture == 'RetinaNet'
    assert ChannelPlan.from_json(model.plan) == PLAN
    ours = {'type', 'plan', 'input_shape'}
    assert set(model) == {*ours, 'architecture', 'backbone', 'neck'}
    assert model.backbone == dict(type='ResNet', depth=50)
    assert model.neck == dict(init_cfg=[dict(type='Xavier')])
    assert found.optim_wrapper == dict(
        type='OptimWrapper', optimizer=dict(type='SGD')
    )
    assert found.custom_hooks == [dict(type='EMAHook')]
    assert found.default_hooks == dict(timer=dict())
    assert found.custom_imports['imports'] == ['mmlapp']
    assert found.default_scope == 'mmdet'
    left = {'load_from', 'resume', 'work_dir'} & set(found.keys())
    assert not left
    assert cfg.to_dict() == config().to_dict()


def test_the_deployed_config_survives_a_file(tmp_path):
    found = recipe.deployed_config(config(), PLAN)
    found.dump(tmp_path / 'a.py')
    assert Config.fromfile(tmp_path / 'a.py').to_dict() == found.to_dict()


def test_imports_of_the_user_stay():
    imports = dict(imports=['theirs'], allow_failed_imports=True)
    found = recipe.deployed_config(config(custom_imports=imports), PLAN)
    assert found.custom_imports == dict(
        imports=['theirs', 'mmlapp'], allow_failed_imports=True
    )


@pytest.mark.parametrize('scope', ['mmdet', 'mmpretrain'])
def test_a_whole_architecture_becomes_flat_in_the_default_scope(scope):
    cfg = config()
    whole = dict(type='FCOS', _scope_=scope, neck=dict(type='FPN'))
    cfg.model = dict(type='PrunableModel', architecture=whole)
    found = recipe.deployed_config(cfg, PLAN).model
    if scope == 'mmdet':
        assert found.architecture == 'FCOS'
        assert found.neck == dict(type='FPN')
        assert '_scope_' not in found
    else:
        assert found.architecture == whole
        ours = {'type', 'plan', 'architecture', 'input_shape'}
        assert set(found) == ours


@pytest.mark.parametrize(
    ('ours', 'plain'),
    [
        ('AmpPruningOptimWrapper', 'AmpOptimWrapper'),
        ('mmlapp.AmpPruningOptimWrapper', 'AmpOptimWrapper'),
        ('TheirWrapper', 'TheirWrapper'),
    ],
)
def test_optimizer_wrappers(ours, plain):
    cfg = config()
    cfg.optim_wrapper.type = ours
    assert recipe.deployed_config(cfg, PLAN).optim_wrapper.type == plain


def test_pure_python_configs(tmp_path):
    path = tmp_path / 'lazy.py'
    path.write_text(
        'from mmlapp.engine import PruningHook, PruningOptimWrapper\n'
        'from mmlapp.engine import prunable_model\n'
        "default_scope = 'mmpretrain'\n"
        "model = dict(type=prunable_model, architecture='ImageClassifier')\n"
        'optim_wrapper = dict(type=PruningOptimWrapper)\n'
        'custom_hooks = [dict(type=PruningHook)]\n'
    )
    cfg = Config.fromfile(path, lazy_import=True)
    assert recipe.is_prunable(cfg.model)
    found = recipe.deployed_config(cfg, PLAN)
    assert found.model.type == 'mmlapp.DeployedModel'
    assert found.model.architecture == 'ImageClassifier'
    assert found.optim_wrapper.type == 'OptimWrapper'
    assert found.custom_hooks == []
    assert 'prunable_model' not in found.pretty_text


def test_the_dense_config():
    cfg = config(data_preprocessor=dict(mean=[0.0]))
    expected = dict(
        type='RetinaNet',
        backbone=dict(type='ResNet', depth=50),
        neck=dict(init_cfg=[dict(type='Xavier')]),
        data_preprocessor=dict(mean=[0.0]),
    )
    assert recipe.dense_config(cfg) == expected
    plain = Config(dict(model=expected))
    assert recipe.dense_config(plain) == expected
    deployed = recipe.deployed_config(cfg, PLAN)
    assert recipe.dense_config(deployed) == expected


@pytest.mark.parametrize('architecture', ['RetinaNet', 'mmdet.NotYet'])
def test_what_both_take_is_the_models(architecture):
    """Also of one that nobody has registered so far."""
    cfg = config()
    preprocessor = dict(type='DetDataPreprocessor', mean=[0.0])
    cfg.model.update(architecture=architecture, data_preprocessor=preprocessor)
    for found in (cfg, recipe.deployed_config(cfg, PLAN)):
        dense = recipe.dense_config(found)
        assert dense.type == architecture
        assert dense.data_preprocessor == preprocessor
    cfg.model.data_preprocesor = {}
    with pytest.raises(PruningError, match='did you mean data_preprocessor'):
        recipe.dense_config(cfg)


def test_a_model_that_is_pruned_again_has_both_plans(tmp_path):
    """Flat, since stock tools look for the backbone beside the name."""
    first = recipe.deployed_config(config(), PLAN)
    other = ChannelPlan({'a': Kept(2, (1,))}, {})
    for times in (2, 3):
        cfg = config()
        cfg.model = dict(
            type='mmlapp.PrunableModel', architecture=first.model, divisor=2
        )
        assert recipe.dense_config(cfg) == first.model
        first = recipe.deployed_config(cfg, other)
        model = first.model
        assert model.architecture == 'RetinaNet'
        assert model.backbone == dict(type='ResNet', depth=50)
        plans = [ChannelPlan.from_json(text) for text in model.plan]
        assert plans == [PLAN, *[other] * (times - 1)]
    dense = recipe.dense_config(config())
    assert recipe.dense_config(first) == dense


@pytest.mark.parametrize('name', ['plan', 'architecture', 'prefix'])
def test_arguments_that_are_called_like_ours(name):
    cfg = config()
    whole = {'type': 'Net', name: 'tiny', 'scope': 3}
    cfg.model = dict(type='mmlapp.PrunableModel', architecture=whole)
    found = recipe.deployed_config(cfg, PLAN)
    assert found.model.architecture == whole
    assert ChannelPlan.from_json(found.model.plan) == PLAN
    assert recipe.dense_config(cfg) == whole
    assert recipe.dense_config(found) == whole


def test_arguments_that_are_called_like_those_of_pruning():
    """A deployed model passes them on to its architecture."""
    cfg = config()
    whole = dict(type='Net', scope=3, divisor=4)
    cfg.model = dict(type='mmlapp.PrunableModel', architecture=whole)
    found = recipe.deployed_config(cfg, PLAN)
    assert recipe.dense_config(found) == whole


def test_a_model_that_says_not_which_one_is_inside():
    cfg = Config(dict(model=dict(type='mmlapp.PrunableModel', depth=18)))
    with pytest.raises(PruningError, match=r"PrunableModel' has no architec"):
        recipe.dense_config(cfg)


def test_own_settings():
    found = recipe.own_settings(config().model)
    assert found['divisor'] == 8
    assert found['method']['type'] == 'lapp'
    assert found['input_shape'] == (3, 224, 224)
    assert 'architecture' not in found
    assert 'backbone' not in found
    # Another model's arguments of the same name are not ours.
    other = recipe.own_settings(dict(type='Net', divisor=7))
    assert other['divisor'] == 1


@pytest.mark.parametrize('shape', [(3, 32, 48), {'a': (3, 8, 8)}])
def test_what_costs_are_counted_at_goes_on_with_the_model(shape):
    """From a run to the deployed model, and to one that is pruned again."""
    cfg = config()
    assert recipe.counted_shape(cfg.model) == (3, 224, 224)
    cfg.model.input_shape = shape
    deployed = recipe.deployed_config(cfg, PLAN).model
    for model in (cfg.model, deployed):
        assert recipe.counted_shape(model) == shape
        assert recipe.own_settings(model)['input_shape'] == shape
    again = config()
    again.model = dict(
        type='mmlapp.PrunableModel', architecture=deployed, input_shape=(3, 9)
    )
    found = recipe.deployed_config(again, PLAN).model
    assert recipe.counted_shape(found) == (3, 9)


def test_what_costs_are_counted_at_may_not_be_known():
    assert recipe.counted_shape(dict(type='Net', input_shape=(3, 8))) is None
    part = dict(type='mmlapp.DeployedModel', plan='a.json', prefix='backbone')
    assert recipe.counted_shape(part) is None
    assert recipe.own_settings(part)['input_shape'] == (3, 224, 224)


@pytest.mark.parametrize('model', [None, dict(type='ResNet')])
def test_other_configs_are_refused(model):
    with pytest.raises(PruningError, match=r"expected type='mmlapp\.Prun"):
        recipe.check_prunable(Config(dict(model=model)))


class OwnPruning(PruningHook):
    """A hook of a user, derived from ours."""


class OwnDistiller(Distiller):
    """Likewise."""


def test_hooks_derived_from_ours_stay_behind():
    cfg = config()
    cfg.custom_hooks = [
        dict(type='EMAHook'),
        dict(type=OwnPruning, target=dict(flops=0.5)),
        dict(type=OwnDistiller, teacher='dense'),
        dict(type='HookThatNobodyRegistered'),
    ]
    cfg.default_hooks = dict(pruner=dict(type=OwnPruning), timer=dict())
    found = recipe.deployed_config(cfg, PLAN)
    names = [hook['type'] for hook in found.custom_hooks]
    assert names == ['EMAHook', 'HookThatNobodyRegistered']
    assert list(found.default_hooks) == ['timer']
