# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
from dataclasses import replace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmlapp.core import Phase, PruningError, attach, narrow
from mmlapp.engine.checkpoints.reading import read_trained
from mmlapp.engine.deployment.masked import (
    _widened,
    build_model,
    masked_model,
    narrow_weights_model,
)
from mmlapp.engine.models.plans import KEY, narrow_model


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@torch.no_grad()
def outputs(model):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 16, 16, generator=generator)
    return model(image, mode='tensor')


def narrowed(run, trained):
    """The same, as if the run had narrowed its model."""
    plan = run.model.pruner.plan()
    slim = narrow_model(copy.deepcopy(run.model), plan)
    weights = {k: v for k, v in slim.state_dict().items() if k != KEY}
    return replace(trained, weights=weights, state={}, plans=(plan,))


def read(run):
    return Config.fromfile(run.config), read_trained(run.checkpoint)


@pytest.mark.parametrize(
    'bypass',
    [{}, dict(bypass='depthwise', unit='filters'), dict(unit='stripes')],
)
@pytest.mark.parametrize('narrow', [True, False])
def test_the_model_of_the_run(classifier_run, bypass, narrow):
    """Of its masks or, where it is narrow, of the plan in the weights."""
    run = classifier_run(**bypass, target=0.6)
    cfg, trained = read(run)
    if narrow:
        trained = narrowed(run, trained)
    model = masked_model(cfg, trained)
    assert not any(module.training for module in model.modules())
    # Garbage among the weights: only what the masks hide has changed.
    assert torch.equal(outputs(model), outputs(run.model))
    own = dict(run.model.named_parameters())
    changed = [not p.equal(own[n]) for n, p in model.named_parameters()]
    assert any(changed) == narrow
    assert torch.equal(model.pruner.mask, run.model.pruner.mask)
    assert not model.pruner.mask.all()
    assert model.pruner.phase == Phase.FINISHED
    assert model.pruner.progress.target == {'flops': 0.6}
    assert model.pruner.plan() == run.model.pruner.plan()


def test_a_narrow_checkpoint_gives_a_narrow_model(classifier_run):
    run = classifier_run()
    cfg, trained = read(run)
    model = narrow_weights_model(cfg, narrowed(run, trained))
    assert not any(module.training for module in model.modules())
    slim = narrow_model(copy.deepcopy(run.model), run.model.pruner.plan())
    assert list(model.state_dict()) == list(slim.state_dict())
    assert torch.equal(outputs(model), outputs(slim))


def test_other_numbers_of_prunings_are_refused(classifier_run):
    run = classifier_run()
    cfg, trained = read(run)
    twice = narrowed(run, trained)
    twice = replace(twice, plans=twice.plans * 2)
    text = 'it was narrowed 2 times, and the model of the config 0 times'
    with pytest.raises(PruningError, match=text):
        masked_model(cfg, twice)


def test_pretrained_weights_are_left_out_and_the_config_stays(classifier_run):
    cfg = Config.fromfile(classifier_run().config)
    before = copy.deepcopy(cfg.to_dict())
    model = build_model(cfg)
    model.init_weights()  # nowhere.pth is not there
    assert cfg.to_dict() == before
    assert cfg.model.backbone.init_cfg.checkpoint == 'nowhere.pth'
    assert model.data_preprocessor.mean.flatten().tolist() == [80.0] * 3


def test_a_data_preprocessor_inside_the_model_counts(classifier_run):
    cfg = Config.fromfile(classifier_run().config)
    cfg.model.data_preprocessor = dict(mean=[5.0] * 3, std=[1.0] * 3)
    model = build_model(cfg)
    assert model.data_preprocessor.mean.flatten().tolist() == [5.0] * 3


def drop(*names):
    def edit(trained):
        for name in names:
            del trained.weights[name]

    return edit


def other_gate(trained):
    trained.state['gate'] = torch.ones(7)


def soft_gate(trained):
    trained.state['gate'].mul_(0.5)


@pytest.mark.parametrize(
    ('edit', 'text'),
    [
        (drop('head.fc.bias'), r': head\.fc\.bias is missing\. Give the conf'),
        (
            lambda t: t.weights.update(extra=torch.zeros(1)),
            r': extra is unknown\. Give the config',
        ),
        (
            lambda t: t.weights.update({'head.fc.bias': torch.zeros(11)}),
            r'model of the config: size mismatch for head\.fc\.bias: copying',
        ),
        (
            drop(
                'head.fc.bias',
                'head.fc.weight',
                'backbone.bn1.bias',
                'backbone.bn1.weight',
                'backbone.bn1.running_var',
            ),
            r'missing; .* missing; .* missing and 2 more\. Give',
        ),
        (other_gate, r'the masks .* do not fit .*: 7 channels, not \d+\. Gi'),
        (soft_gate, 'are neither 0 nor 1: something averaged'),
    ],
)
def test_what_belongs_to_another_model_is_refused(classifier_run, edit, text):
    cfg, trained = read(classifier_run())
    with pytest.raises(PruningError, match=text):
        masked_model(cfg, edit(trained) or trained)


@pytest.mark.parametrize(
    ('name', 'change', 'text'),
    [
        ('backbone.conv1.weight', lambda v: v.half(), r'in torch\.float16'),
        ('head.fc.bias', lambda v: v / 0, 'bias that are not finite'),
        ('backbone.bn1.running_var', lambda v: v * float('nan'), 'not finite'),
    ],
)
def test_forged_weights(classifier_run, name, change, text):
    cfg, trained = read(classifier_run())
    trained.weights[name] = change(trained.weights[name])
    with pytest.raises(PruningError, match=text):
        masked_model(cfg, trained)


def test_masks_with_other_targets(classifier_run):
    cfg, trained = read(classifier_run())
    trained.state['progress'] = trained.state['progress'][:-1]
    with pytest.raises(PruningError, match='which has flops, parameters'):
        masked_model(cfg, trained)


@pytest.mark.parametrize('narrow', [True, False])
def test_weights_of_another_precision(classifier_run, narrow):
    run = classifier_run()
    cfg, trained = read(run)
    if narrow:
        trained = narrowed(run, trained)
    half = {name: value.half() for name, value in trained.weights.items()}
    with pytest.raises(PruningError, match=r'in torch\.float16, the model of'):
        masked_model(cfg, replace(trained, weights=half))


class Shared(nn.Module):
    """A layer with three names, and one with the weight of another."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 12, 3, padding=1)
        self.tied = nn.Conv2d(8, 12, 3, padding=1)
        self.tied.weight = self.first.weight
        self.towers = nn.ModuleList(
            nn.Sequential(self.first, nn.BatchNorm2d(12)) for _ in range(2)
        )
        self.last = nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x):
        x = self.stem(x).relu()
        found = [tower(x).relu() for tower in self.towers]
        return self.last(sum(found) + self.tied(x))


@pytest.mark.parametrize(
    'settings',
    [
        dict(),
        dict(bypass='repvgg'),
        dict(bypass='depthwise', unit='filters'),
        dict(unit='stripes'),
    ],
)
def test_what_has_several_names_is_placed_under_all(settings):
    """As in heads of mmdet that share their convolutions."""
    image = torch.rand(2, 3, 9, 9)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(Shared())
        attach(models[-1], image, **settings)
    model, twin = models
    mask = torch.rand(len(model.pruner.gate)) < 0.5
    sizes = torch.tensor(model.pruner.sizes)
    mask[sizes.cumsum(0) - sizes] = True  # one part of every group
    for one in models:
        one.pruner.set_mask(mask, {'flops': 0.5})
    plan = model.pruner.plan()
    narrow(model, plan).eval()
    weights = _widened(twin, model.state_dict(), plan)
    known = twin.load_state_dict(weights, strict=False)
    assert all(name.startswith('pruner.') for name in known.missing_keys)
    assert not known.unexpected_keys
    for name in ('weight', 'bias'):
        assert torch.equal(
            weights[f'first.{name}'], weights[f'towers.1.0.{name}']
        )
    torch.testing.assert_close(twin.eval()(image), model(image))
    # A name that the file lacks is no name of the model's either.
    lacking = model.state_dict()
    del lacking['towers.1.0.bias']
    assert 'towers.1.0.bias' not in _widened(twin, lacking, plan)
