# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Clusters of responses, and contributions against autograd by hand."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmlapp.core import PruningError, attach
from mmlapp.core.score import SCORES
from mmlapp.core.score.functionality import objective


@pytest.fixture
def net_of(conv):
    """Two layers; the first has twins 0-2, 3-5 and 6-7, up to a factor."""

    def make(between):
        model = nn.Sequential(conv(3, 8), *between, conv(8, 4)).double()
        with torch.no_grad():
            for twin, original in ((1, 0), (2, 0), (4, 3), (5, 3), (7, 6)):
                model[0].weight[twin] = model[0].weight[original] * (twin + 1)
                model[0].bias[twin] = model[0].bias[original] * (twin + 1)
        return model

    return make


TWINS = [0, 1, 2], [3, 4, 5], [6, 7]


@pytest.fixture
def image():
    """So many that responses of different filters are hardly alike."""
    return torch.randn(16, 3, 6, 6, dtype=torch.float64)


def prepared(model, image, target, clusters=3):
    score = SCORES.build(dict(type='functionality', clusters=clusters))
    pruner = attach(model, image, score=score, scope='0')
    pruner.prepare(model, [lambda: (model(image) * target).sum()])
    return pruner, score.scores['0']


def contributions(model, image, target):
    """Mean size of the gradient by what the first layer puts out."""
    out = model[0](image).detach().requires_grad_()
    # A copy, as a ReLU may work in place.
    loss = (model[1:](out.clone()) * target).sum()
    return torch.autograd.grad(loss, out)[0].abs().mean((0, 2, 3))


@pytest.mark.parametrize(
    'between', [[], [nn.ReLU()], [nn.ReLU(inplace=True)], [nn.BatchNorm2d(8)]]
)
def test_ranks_of_contributions_inside_every_cluster(net_of, image, between):
    model = net_of(between).eval()
    target = torch.randn(16, 4, 6, 6, dtype=torch.float64)
    expected = torch.zeros(8)
    size = contributions(model, image, target)
    for twins in TWINS:
        for place, n in enumerate(sorted(twins, key=lambda n: float(size[n]))):
            expected[n] = (place + 0.5) / len(twins)
    pruner, found = prepared(model, image, target)
    torch.testing.assert_close(found, expected)
    assert not model[0]._forward_hooks
    assert all(p.grad is None for p in model.parameters())
    pruner.begin({'flops': 0.9}, 2)
    # Equal ones keep their order.
    assert (
        pruner.scores.argsort().tolist()
        == expected.argsort(stable=True).tolist()
    )


@pytest.mark.parametrize('reentrant', [True, False])
def test_a_part_that_runs_again_in_the_backward(net, conv, reentrant):
    """It responds as it does without, and contributes as much."""
    image = torch.randn(16, 3, 6, 6, dtype=torch.float64)
    model = net(
        lambda m, x: m.c(m.way(m.b, m.a(x))),
        a=conv(3, 8),
        b=nn.Sequential(conv(8, 12), nn.ReLU()),
        c=conv(12, 4),
    ).eval()
    found = []
    model.way = lambda part, x: part(x)
    pruner = attach(model, image, score='functionality', method='ranking')
    for way in (model.way, partial(checkpoint, use_reentrant=reentrant)):
        model.way = way
        pruner.prepare(model, [lambda: model(image)])
        found.append(pruner.scorer.score.scores)
    torch.testing.assert_close(*found)


def test_layers_that_are_frozen_respond_all_the_same(net_of, image):
    model = net_of([nn.ReLU(inplace=True)]).eval()
    target = torch.randn(16, 4, 6, 6, dtype=torch.float64)
    weights = copy.deepcopy(model.state_dict())
    expected = prepared(model, image, target)[1]
    frozen = net_of([nn.ReLU(inplace=True)]).eval()
    frozen.load_state_dict(weights)
    frozen.requires_grad_(False)
    assert torch.equal(prepared(frozen, image, target)[1], expected)


def test_a_layer_of_the_loss_that_hears_nothing_contributes_nothing(
    net_of, image
):
    model = net_of([]).eval()
    with torch.no_grad():
        model[1].weight[:, 3] = 0
    target = torch.ones(16, 4, 6, 6, dtype=torch.float64)
    found = prepared(model, image, target, clusters=1)[1]
    assert found.argmin() == 3


def test_outputs_of_linear_layers_have_their_channels_last():
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))
    rows = torch.randn(4, 5, 3)
    score = SCORES.build(dict(type='functionality', batches=2))
    told, pruner = [], attach(model, rows, score=score)
    score.report = told.append
    pruner.prepare(model, [lambda: model(rows)] * 2)
    assert score.scores['0'].shape == (8,)
    assert told == [0.5, 1]


def test_losses_are_summed_and_outputs_squared():
    loss = torch.tensor(3.0, requires_grad=True)
    outputs = torch.tensor([1.0, 2.0], requires_grad=True)
    returned = dict(loss=loss, more=[outputs], accuracy=torch.tensor(9.0))
    assert objective(returned, 'mine') == 3 + 5 / 2
    with pytest.raises(PruningError, match=r'score=mine: .*has no gradient'):
        objective(dict(accuracy=torch.tensor(9.0)), 'mine')


def test_channels_of_a_table_come_last():
    words = torch.randint(9, (16, 7))
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 5))
    pruner = attach(model, words, score='functionality')
    pruner.prepare(model, [lambda: model(words)])
    assert pruner.scorer.score.scores['0'].shape == (8,)


class Silent(nn.Module):
    """Reads the weight of a layer that it does not call."""

    def __init__(self, conv):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 4)

    def forward(self, x):
        x = nn.functional.conv2d(x, self.a.weight, self.a.bias)
        return self.b(x)


def test_a_layer_that_is_never_called_is_named(conv, image):
    model = Silent(conv).double()
    pruner = attach(model, image, score='functionality')
    with pytest.raises(PruningError, match=r"a put no tensor.*ignore=\['a'\]"):
        pruner.prepare(model, [lambda: model(image)])
    assert not model.b._forward_hooks


@pytest.mark.parametrize('name', ['clusters', 'batches'])
@pytest.mark.parametrize('value', [0, 2.5, True, '3'])
def test_numbers_out_of_range(name, value):
    with pytest.raises(PruningError, match=f'functionality {name}={value!r}'):
        SCORES.build({'type': 'functionality', name: value})
