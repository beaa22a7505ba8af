# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""When scores are computed, and what calibration may change."""

import copy

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError, Score, attach


class Activation(Score):
    """Mean activation of every channel over calibration batches."""

    batches = 2

    def __init__(self, refresh=1):
        self.refresh, self.calls = refresh, 0
        self.means = {}

    def prepare(self, model, layers, batches):
        def note(name):
            def hook(module, args, out):
                found = out.detach().abs().mean((0, 2, 3))
                self.means[name] = self.means.get(name, 0) + found

            return hook

        handles = [
            layer.register_forward_hook(note(name))
            for name, layer in layers.items()
        ]
        for run in batches:
            run().sum().backward()
        for handle in handles:
            handle.remove()

    def __call__(self, context):
        self.calls += 1
        return self.means[context.name]


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)
    )


@pytest.fixture
def images():
    return torch.randn(4, 3, 9, 9)


def test_scores_come_from_the_batches(model, images):
    score = Activation()
    pruner = attach(model, images, score=score, normalisation='mean')
    with torch.no_grad():
        expected = model[0](images).abs().mean((0, 2, 3))
    pruner.prepare(model, [lambda: model(images)] * 2)
    pruner.begin({'flops': 0.5}, 2)
    torch.testing.assert_close(
        pruner.scores, expected / expected.mean(), atol=1e-5, rtol=1e-4
    )


def test_a_score_that_was_not_prepared(model, images):
    pruner = attach(model, images, score=Activation())
    with pytest.raises(PruningError, match='2 calibration batches'):
        pruner.begin({'flops': 0.5}, 2)
    assert pruner.phase == 0


def test_calibration_leaves_no_trace(model, images):
    pruner = attach(model.train(), images, score=Activation())
    model(images).square().mean().backward()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters()]
    pruner.prepare(model, [lambda: model(images)] * 2)
    assert all(module.training for module in model.modules())
    for parameter, before in zip(model.parameters(), grads, strict=True):
        assert torch.equal(parameter.grad, before)
    for key, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(), state[key].nan_to_num())


@pytest.mark.parametrize(('refresh', 'calls'), [(1, 7), (3, 3), (0, 1)])
def test_scores_are_computed_when_they_are_due(model, images, refresh, calls):
    """At the beginning and in steps 1 to 6, of which 3 and 6 are due."""
    score = Activation(refresh)
    pruner = attach(model, images, score=score)
    pruner.prepare(model, [lambda: model(images)])
    pruner.begin({'flops': 0.5}, 6)
    for _ in range(6):
        pruner.step()
    assert score.calls == calls


def weight(context):
    """As the layer learns it, not detached."""
    return context.module._parameters['weight']


class Keeps(Score):
    """Keeps what it computed from, or what it returned."""

    def __init__(self, what):
        self.what = what

    def __call__(self, context):
        scores = weight(context).abs().sum((1, 2, 3))
        self.kept = {'nothing': None, 'all': [scores]}.get(
            self.what, scores.detach()
        )
        return scores


def test_a_score_that_keeps_its_graph_is_named(model, images):
    pruner = attach(model, images, score=Keeps('all'))
    with pytest.raises(
        PruningError, match=r'score=Keeps keeps kept with.*det'
    ):
        pruner.begin({'flops': 0.5}, 10)
    assert pruner.phase == 0


@pytest.mark.parametrize('what', ['nothing', 'values'])
def test_what_a_score_returns_loses_its_graph(model, images, what):
    pruner = attach(model, images, score=Keeps(what))
    pruner.begin({'flops': 0.5}, 10)
    copied = copy.deepcopy(model)
    assert torch.equal(copied.pruner.scores, pruner.scores)
    assert not pruner.scores.requires_grad


@pytest.mark.parametrize(
    ('returned', 'match'),
    [
        (lambda context: weight(context).sum(), r'Tensor of shape \(\)'),
        (lambda context: weight(context), r'shape \(8, 3, 3, 3\)'),
        (lambda context: context.filters.sum(1)[:3], r'shape \(3,\)'),
        (lambda context: [1.0] * 8, 'got list'),
        (lambda context: None, 'got NoneType'),
    ],
)
def test_a_score_has_one_number_per_channel(model, images, returned, match):
    class Wrong(Score):
        def __call__(self, context):
            return returned(context)

    pruner = attach(model, images, score=Wrong())
    with pytest.raises(
        PruningError, match=rf'score=Wrong of 0: .*shape \(8,\).*{match}'
    ):
        pruner.begin({'flops': 0.5}, 10)


def test_a_phase_that_was_loaded_asks_for_batches_again(model, images):
    """Where the score is computed anew; what it told is in the state."""
    for refresh, asks in ((1, True), (0, False)):
        first, again = copy.deepcopy(model), copy.deepcopy(model)
        for network in (first, again):
            attach(network, images, score=Activation(refresh))
        first.pruner.prepare(first, [lambda m=first: m(images)])
        first.pruner.begin({'flops': 0.5}, 6)
        again.load_state_dict(first.state_dict())
        if asks:
            with pytest.raises(PruningError, match='that was loaded goes on'):
                again.pruner.step()
            again.pruner.prepare(again, [lambda m=again: m(images)])
        again.pruner.step()
        assert again.pruner.progress.done == 1
