# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Every road of weights into a model, with the right shape or none."""

import copy
import pickle
import tracemalloc
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseTTAModel, ExponentialMovingAverage
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import (
    load_checkpoint,
    load_state_dict,
    weights_to_cpu,
)
from torch import nn

from mmlapp.core import PruningError
from mmlapp.core.plan.carried import plans_entry
from mmlapp.core.plan.kept import Kept
from mmlapp.engine.models.plans import (
    KEY,
    carry_plans,
    narrow_model,
    plans_in,
    plans_of,
    replace_plan,
)

SETTINGS = dict(
    backbone=dict(type='mmlapp.CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
IMAGE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def scope():
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def build(kind='mmlapp.PrunableModel', **settings):
    config = dict(type=kind, architecture='ImageClassifier', **SETTINGS)
    if kind == 'mmlapp.PrunableModel':
        config['input_shape'] = (3, 8, 8)
    return MODELS.build({**config, **settings})


def prune(model, target=0.5):
    """Narrows a model to what random scores say, as a run does."""
    model.pruner.begin({'flops': target}, steps=1)
    model.pruner.scores.copy_(torch.rand(len(model.pruner.gate)))
    model.pruner.finish()
    return narrow_model(model, model.pruner.plan())


@torch.no_grad()
def outputs(model):
    return model.eval()(IMAGE, mode='tensor')


@pytest.fixture
def slim():
    return prune(build())


def deployed(slim, **settings):
    (plan,) = plans_of(slim)
    return build('mmlapp.DeployedModel', plan=plan.to_json(), **settings)


def saved(state_dict, tmp_path):
    """A file with what publishing keeps."""
    path = tmp_path / 'published.pth'
    torch.save(
        dict(meta={}, state_dict=weights_to_cpu(OrderedDict(state_dict))), path
    )
    return str(path)


class FlippedTwice(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        """Never called."""


class Wrapper(nn.Module):
    """As distributed training names the model inside."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def by_torch(model, state_dict, tmp_path):
    model.load_state_dict(state_dict, strict=True)


def by_mmengine(model, state_dict, tmp_path):
    load_checkpoint(model, saved(state_dict, tmp_path), strict=True)


def by_tta(model, state_dict, tmp_path):
    load_state_dict(FlippedTwice(model), state_dict, strict=True)


def by_wrapper(model, state_dict, tmp_path):
    inside = OrderedDict((f'module.{k}', v) for k, v in state_dict.items())
    Wrapper(model).load_state_dict(inside, strict=True)


def by_init(model, state_dict, tmp_path):
    PretrainedInit(saved(state_dict, tmp_path))(model)


ROADS = by_torch, by_mmengine, by_tta, by_wrapper, by_init


def publish(run):
    """Leaves the narrow weights of a run alone, as publishing does."""
    narrow_model(run.model, run.model.pruner.plan())
    state_dict = run.model.state_dict()
    run.change(lambda data: data.pop('optimizer'))
    run.change(lambda data: data.update(state_dict=state_dict))
    return str(run.config), str(run.checkpoint)


def classifiers(config, checkpoint):
    from mmpretrain.apis import (
        ImageClassificationInferencer,
        get_model,
        init_model,
    )

    yield get_model(config, pretrained=checkpoint)
    yield init_model(config, checkpoint, device='cpu')
    yield ImageClassificationInferencer(
        config, pretrained=checkpoint, device='cpu'
    ).model


def detectors(config, checkpoint):
    from mmdet.apis import DetInferencer, init_detector

    yield init_detector(config, checkpoint, device='cpu', palette='coco')
    path = Path(config)
    load = "dict(type='LoadImageFromFile'), dict(type='PackDetInputs')"
    text = path.read_text().replace('pipeline=[]', f'pipeline=[{load}]')
    path.write_text(f"{text}\nvisualizer = dict(type='DetLocalVisualizer')\n")
    yield DetInferencer(config, checkpoint, device='cpu').model


@pytest.mark.slow  # for what it imports
@pytest.mark.parametrize('kind', ['classifier', 'detector'])
def test_stock_calls_take_the_config_of_the_run(
    classifier_run, detector_run, monkeypatch, kind
):
    """Without our hook, and of a checkpoint that has the weights alone."""
    run = (classifier_run if kind == 'classifier' else detector_run)()
    calls = classifiers if kind == 'classifier' else detectors
    image = torch.rand(1, 3, 64, 64)
    expected = None
    for model in calls(*publish(run)):
        with torch.no_grad():
            if expected is None:
                expected = run.model.eval().backbone(image)
            found = model.backbone(image)
        assert all(map(torch.equal, found, expected))
        assert plans_of(model)


@pytest.mark.parametrize('into', ['prunable', 'deployed', 'copy'])
@pytest.mark.parametrize('load', ROADS)
def test_narrow_weights_make_the_model_narrow(slim, tmp_path, load, into):
    before = {k: v.clone() for k, v in slim.state_dict().items()}
    model = {
        'prunable': build,
        'deployed': lambda: deployed(slim),
        'copy': lambda: copy.deepcopy(slim),
    }[into]()
    load(model, slim.state_dict(), tmp_path)
    assert torch.equal(outputs(model), outputs(slim))
    assert plans_of(model) == plans_of(slim)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    'bypass',
    [
        dict(bypass='depthwise'),
        dict(bypass='pointwise', unit='filters'),
        dict(unit='stripes'),
    ],
)
def test_branches_and_stripes_are_narrow_too(bypass):
    slim = prune(build(**bypass), 0.7)
    model = build(**bypass)
    model.load_state_dict(slim.state_dict())
    assert torch.equal(outputs(model), outputs(slim))


def test_stripes_without_their_plan_are_refused():
    slim = prune(build(unit='stripes'))
    state = slim.state_dict()
    weights = {k: v for k, v in state.items() if k != KEY}
    model = build(unit='stripes')
    with pytest.raises(PruningError, match=r'conv1\.weight has shape'):
        model.load_state_dict(weights, strict=False)
    narrow = deployed(slim)
    dense = build().state_dict()
    with pytest.raises(PruningError, match=r'conv1\.weight has shape'):
        narrow.load_state_dict(dense, strict=False)


def test_init_weights_gives_no_new_parameters(slim, tmp_path):
    """MMEngine counts them, and would fail once the model is narrow."""
    model, path = build(), saved(slim.state_dict(), tmp_path)
    model.init_cfg = dict(type='Pretrained', checkpoint=path)
    with pytest.raises(PruningError, match=r'init_weights cannot .* load_fro'):
        model.init_weights()
    assert model.backbone.conv1.out_channels == 16
    load_checkpoint(model, path)
    assert torch.equal(outputs(model), outputs(slim))


def test_the_averaged_model_becomes_narrow(slim):
    average = ExponentialMovingAverage(build())
    narrow = ExponentialMovingAverage(slim)
    average.load_state_dict(narrow.state_dict())
    assert torch.equal(outputs(average.module), outputs(slim))


@pytest.mark.parametrize('buffers', [True, False])
def test_averaging_leaves_the_plan_alone(slim, buffers):
    average = ExponentialMovingAverage(slim, update_buffers=buffers)
    for _ in range(3):
        average.update_parameters(slim)
    state = average.state_dict()
    assert plans_in(state, 'module.') == plans_of(slim)
    average.load_state_dict(state)


def test_a_plan_is_no_buffer(slim):
    assert KEY not in dict(slim.named_buffers())
    slim.half()
    # As tools that shrink files convert everything.
    halves = {k: v.half() for k, v in slim.state_dict().items()}
    assert plans_in(halves) == plans_of(slim)
    assert KEY not in build().state_dict()


def test_a_plan_takes_the_memory_of_its_text(slim):
    """Ranges are not written out before they are known to fit."""
    (plan,) = plans_of(slim)
    name, size = 'backbone.conv1.weight', 10**6
    huge = {0: Kept.parse(size, f'0-{size - 1}')}
    forged = replace(
        plan,
        slices={**plan.slices, name: huge},
        shapes={**plan.shapes, name: (size, 3, 3, 3)},
    )
    weights = {**slim.state_dict(), KEY: plans_entry([forged])}
    model = build()
    tracemalloc.start()
    with pytest.raises(PruningError, match=f'the model {size} in dimension 0'):
        model.load_state_dict(weights)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size


def test_a_narrow_model_can_be_pickled(slim):
    twin = pickle.loads(pickle.dumps(slim))
    assert torch.equal(outputs(twin), outputs(slim))
    twin.load_state_dict(slim.state_dict())
    build().load_state_dict(twin.state_dict(), strict=True)


def test_pruned_again_it_carries_both_plans(slim):
    """A run that begins with what another one deployed."""
    config = dict(
        type='mmlapp.DeployedModel',
        architecture='ImageClassifier',
        plan=plans_of(slim)[0].to_dict(),
        **SETTINGS,
    )

    model = MODELS.build(
        dict(
            type='mmlapp.PrunableModel',
            architecture=config,
            input_shape=(3, 8, 8),
        )
    )
    model.load_state_dict(slim.state_dict(), strict=False)
    assert torch.equal(outputs(model), outputs(slim))
    assert plans_of(model) == plans_of(slim)
    smaller = prune(model, 0.6)
    first, second = plans_of(smaller)
    assert first == plans_of(slim)[0]
    for other in (
        build(),
        deployed(slim),
        build(
            'mmlapp.DeployedModel', plan=[first.to_json(), second.to_dict()]
        ),
    ):
        other.load_state_dict(smaller.state_dict())
        assert torch.equal(outputs(other), outputs(smaller))
        assert len(plans_of(other)) == 2
    with pytest.raises(PruningError, match='narrowed to another plan'):
        smaller.load_state_dict(slim.state_dict())


def test_an_optimizer_of_before_cannot_step(slim):
    """It would train parameters that are gone."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.load_state_dict(slim.state_dict())
    model(IMAGE, mode='tensor').sum().backward()
    with pytest.raises(PruningError, match='as it was before narrowing'):
        optimizer.step()
    torch.optim.SGD(model.parameters(), 0.1).step()


def without_plan(model):
    return {k: v for k, v in model.state_dict().items() if k != KEY}


def dense():
    return MODELS.build(dict(type='ImageClassifier', **SETTINGS))


def other(slim):
    torch.manual_seed(7)
    return prune(build()).state_dict()


def damaged(slim):
    return {**slim.state_dict(), KEY: torch.tensor([91, 123])}


def wrong_width(slim):
    """A plan that the weights do not have."""
    state = slim.state_dict()
    name = 'backbone.layer2.0.conv1.weight'
    return {**state, name: state[name][1:]}


@pytest.mark.parametrize(
    ('into', 'weights', 'text'),
    [
        (
            'prunable',
            without_plan,
            r'backbone\.\S+ has shape \(\d+.* carry no',
        ),
        (
            'prunable',
            damaged,
            'pruning_plans in the weights is not to be read',
        ),
        ('prunable', wrong_width, r'layer2\.0\.conv1\.weight has shape'),
        (
            'deployed',
            lambda slim: dense().state_dict(),
            r'backbone\.\S+ has s',
        ),
        (
            'deployed',
            lambda slim: build().state_dict(),
            r'backbone\.\S+ has s',
        ),
        ('deployed', other, 'narrowed to another plan'),
        ('narrow', other, 'narrowed to another plan'),
        ('narrow', lambda slim: dense().state_dict(), r'backbone\.\S+ has s'),
    ],
)
def test_other_weights_are_refused(slim, tmp_path, into, weights, text):
    model = {
        'prunable': build,
        'deployed': lambda: deployed(slim),
        'narrow': lambda: copy.deepcopy(slim),
    }[into]()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(PruningError, match=text) as info:
        by_mmengine(model, weights(slim), tmp_path)
    assert 'Give a checkpoint and a config that belong together' in str(
        info.value
    )
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def masked():
    """A model in its phase, whose masks keep others than any plan."""
    model = build()
    model.pruner.begin({'flops': 0.5}, steps=10)
    gate = torch.arange(len(model.pruner.gate)) % 3 > 0
    model.pruner.set_mask(gate)
    return model


def state_of(model, finished=True):
    """The weights of a run that keeps its masks, or has not begun."""
    if finished:
        model.pruner.begin({'flops': 0.7}, steps=1)
        model.pruner.finish()
    return weights_to_cpu(model.state_dict())


@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.parametrize(
    ('saved', 'own'),
    [
        ('depthwise', None),
        ('depthwise', 'pointwise'),
        (None, 'depthwise'),
    ],
)
def test_masks_with_other_branches_are_refused(saved, own, strict):
    state = state_of(build(bypass=saved))
    model = build(bypass=own)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PruningError, match='pruning run with another bypass'):
        load_state_dict(model, state, strict=strict)
    # Nothing was loaded, and the same branches are.
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())
    same = build(bypass=saved)
    load_state_dict(same, state, strict=True)


def test_before_the_phase_branches_may_be_new():
    state = state_of(build(), finished=False)
    model = build(bypass='depthwise')
    load_state_dict(model, state)
    torch.testing.assert_close(
        model.backbone.conv1.weight, state['backbone.conv1.weight']
    )
    with pytest.raises(PruningError, match='pruning run with another bypass'):
        load_state_dict(build(), state_of(model, finished=False))


@pytest.mark.parametrize('road', [by_torch, by_mmengine, by_wrapper])
def test_masks_go_with_the_weights_that_they_are_of(slim, tmp_path, road):
    model = masked()
    road(model, slim.state_dict(), tmp_path)
    assert not hasattr(model, 'pruner')
    assert torch.equal(outputs(model), outputs(slim))


def test_masks_stay_where_weights_come_without_a_plan():
    model = masked()
    gate = model.pruner.gate.clone()
    model.load_state_dict(dense().state_dict(), strict=False)
    assert torch.equal(model.pruner.gate, gate)


def test_masks_stay_where_a_plan_is_refused(slim):
    (plan,) = plans_of(slim)
    shapes = {**plan.shapes, 'head.fc.bias': (10, 1)}
    state = {
        **slim.state_dict(),
        KEY: plans_entry([replace(plan, shapes=shapes)]),
    }
    model = masked()
    before, gate = outputs(model), model.pruner.gate.clone()
    with pytest.raises(PruningError, match=r'does not fit .*head\.fc\.bias'):
        model.load_state_dict(state)
    assert torch.equal(model.pruner.gate, gate)
    assert torch.equal(outputs(model), before)
    model.pruner.step()


def test_a_part_that_is_narrow_is_refused(slim, tmp_path):
    """Weights of the backbone alone have lost the plan."""
    path = saved(slim.state_dict(), tmp_path)
    model = build()
    with pytest.raises(PruningError, match=r'conv\d\.weight has shape'):
        PretrainedInit(path, prefix='backbone.')(model.backbone)
    other = deployed(slim)
    PretrainedInit(path, prefix='backbone.')(other.backbone)
    assert torch.equal(other.backbone.conv1.weight, slim.backbone.conv1.weight)


@pytest.mark.parametrize('into', [build, deployed])
def test_another_head_and_missing_weights_are_left_out(slim, into):
    """As MMEngine does it when a network is tuned for other classes."""
    own = dict(SETTINGS, head=dict(SETTINGS['head'], num_classes=5))
    if into is build:
        model, weights = build(head=own['head']), dense().state_dict()
    else:
        model, weights = deployed(slim, head=own['head']), slim.state_dict()
    weights = dict(weights)
    del weights['head.fc.bias']
    load_state_dict(model, weights)
    name = 'backbone.layer3.0.conv2.weight'
    assert torch.equal(model.state_dict()[name], weights[name])
    assert outputs(model).shape == (2, 5)


def test_a_model_whose_layers_were_merged_goes_its_own_way(slim):
    """Conversions for deployment may take guarded tensors away."""
    model = build()
    del model.backbone.layer3
    model.load_state_dict(
        {
            k: v
            for k, v in dense().state_dict().items()
            if not k.startswith('backbone.layer3')
        },
        strict=False,
    )


def test_the_last_plan_may_change(slim):
    (plan,) = plans_of(slim)
    replace_plan(slim, plan.without_branches({}, {'flops': 1.0}))
    assert plans_of(slim)[0].costs['flops']['pruned'] == 1.0


def test_hooks_are_placed_once():
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    for _ in range(2):
        carry_plans(model, [])
    assert len(model._state_dict_hooks) == 1
    assert len(model._load_state_dict_pre_hooks) == 1
