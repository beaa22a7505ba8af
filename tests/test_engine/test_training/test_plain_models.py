# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseTTAModel
from mmengine.optim import OneCycleLR, OptimWrapper
from torch import nn, optim

from mmlapp.core import PruningError, attach
from mmlapp.engine.checkpoints.state import HUB
from mmlapp.engine.models.plans import carry_plans, narrow_model
from mmlapp.engine.training.plain_models import PlainModelHook
from mmlapp.engine.training.pruning_hook import PruningHook


class Twice(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        """Never called."""


def layers():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    model.test_step = None
    return model


def narrow_weights():
    model = layers()
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    carry_plans(model, [])
    pruner.begin({'flops': 0.5}, 1)
    pruner.finish()
    return narrow_model(model, pruner.plan()).state_dict()


def load(model, weights, wrap=lambda model: model, **parts):
    parts = {'hooks': (), '_resume': False, **parts}
    parts.update(train_loop=None, max_iters=9)
    runner = SimpleNamespace(model=wrap(model), **parts)
    PlainModelHook().after_load_checkpoint(runner, weights)


@pytest.mark.parametrize('wrap', [lambda model: model, Twice])
@pytest.mark.parametrize('published', [True, False])
def test_a_plain_model_gets_no_narrow_weights(wrap, published):
    weights = narrow_weights()
    checkpoint = {'state_dict': weights} if published else weights
    # MMEngine takes off the name of a wrapper when it loads.
    wrapped = {f'module.{name}': value for name, value in weights.items()}
    for each in (checkpoint, {'state_dict': wrapped}):
        with pytest.raises(
            PruningError, match=r'plain Sequential\. Give the c'
        ):
            load(layers(), each, wrap)
    aware = layers()
    carry_plans(aware, [])
    load(aware, checkpoint, wrap)
    load(layers(), layers().state_dict(), wrap)


@pytest.mark.parametrize('wrap', [lambda model: model, Twice])
@pytest.mark.parametrize('bypass', [None, 'depthwise'])
@pytest.mark.parametrize('begun', [True, False])
def test_a_plain_model_gets_no_masks_or_bypasses(wrap, bypass, begun):
    """Without them the weights are those of another function."""

    def plain():
        widths = zip((3, 8, 8), (8, 8, 4), strict=True)
        model = nn.Sequential(*(nn.Conv2d(*pair, 3) for pair in widths))
        model.test_step = None
        return model

    def prunable():
        model = plain()
        attach(model, torch.rand(1, 3, 8, 8), bypass=bypass)
        return model

    model = prunable()
    image = torch.rand(1, 3, 8, 8)
    model(image)
    with torch.no_grad():  # as training does
        for name, value in model.named_parameters():
            value.add_(0.1 if 'bypass' in name else 0)
    if begun:
        model.pruner.begin({'flops': 0.5}, 1)
        model.pruner.finish()
    checkpoint = {'state_dict': model.state_dict()}
    twin = plain()
    twin.load_state_dict(model.state_dict(), strict=False)
    if torch.allclose(twin(image), model(image)):
        assert not begun
        assert not bypass
        load(plain(), checkpoint, wrap)
    else:
        with pytest.raises(PruningError, match=r'has masks .*Give the config'):
            load(plain(), checkpoint, wrap)
    load(prunable(), checkpoint, wrap)


def test_a_plain_model_gets_no_weights_of_another_width():
    other = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3))
    with pytest.raises(PruningError, match=r'of 4 with a name .* 0 have its'):
        load(layers(), other.state_dict())


def test_an_optimizer_without_our_hook_is_refused():
    """It would keep the parameters of the wide model."""
    model, weights = layers(), narrow_weights()
    carry_plans(model, [])
    wrapper = OptimWrapper(optim.SGD(model.parameters(), 0.1))
    with pytest.raises(PruningError, match=r'new ones .*PruningHook.*Add it'):
        load(model, weights, optim_wrapper=wrapper)
    load(model, weights, optim_wrapper=wrapper, hooks=[PruningHook()])
    load(model, weights, optim_wrapper=dict(type='OptimWrapper'))
    # A deployed model is narrow from the beginning.
    model.load_state_dict(weights)
    load(model, weights, optim_wrapper=wrapper)


def test_weights_alone_are_not_resumed_without_our_hook_either():
    weights = layers().state_dict()
    with pytest.raises(PruningError, match='not the state of a training'):
        load(layers(), weights, _resume=True)
    load(layers(), weights, _resume=True, hooks=[PruningHook()])


def test_a_plain_run_is_resumed_with_all_its_weights():
    weights = layers().state_dict()
    checkpoint = {
        'state_dict': weights,
        'meta': {'iter': 1, 'epoch': 0},
        'message_hub': {name: {} for name in HUB},
        'optimizer': {},
    }
    load(layers(), checkpoint, _resume=True)
    name = next(iter(weights))
    del weights[name]
    with pytest.raises(PruningError, match=f'resume: {name} of the model'):
        load(layers(), checkpoint, _resume=True)
    load(layers(), checkpoint)


def test_functions_of_schedulers_are_not_saved():
    """OneCycleLR keeps one, and no such file is read again."""
    model = layers()
    wrapper = OptimWrapper(optim.SGD(model.parameters(), 0.1))
    scheduler = OneCycleLR(wrapper, eta_max=0.1, total_steps=12)
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper)
    for many in (False, True):
        states = [scheduler.state_dict()]
        assert any(map(callable, states[0].values()))
        checkpoint = {
            'optimizer': wrapper.state_dict(),
            'param_schedulers': {'a': states} if many else states,
        }
        PlainModelHook().before_save_checkpoint(runner, checkpoint)
        assert not any(map(callable, states[0].values()))
        scheduler.load_state_dict(states[0])
