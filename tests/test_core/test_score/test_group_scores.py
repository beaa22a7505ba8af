# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn

from mmlapp.core import attach
from mmlapp.core.score import SCORES
from mmlapp.core.score.base import FunctionScore
from mmlapp.core.score.group_scores import Layer, layer_context, score_name

NAMES = [n for n in SCORES if SCORES[n].__module__.startswith('mmlapp.')]
OF_WEIGHTS = [name for name in NAMES if not SCORES.build(name).batches]


@pytest.mark.parametrize(
    ('module', 'dim'),
    [
        (nn.Conv2d(3, 5, (2, 4)), 0),
        (nn.ConvTranspose2d(5, 3, (2, 4)), 1),
        (nn.Linear(7, 5), 0),
    ],
)
@pytest.mark.parametrize('channels_last', [False, True])
def test_a_filter_and_its_gradient_in_any_layout(module, dim, channels_last):
    if channels_last and module.weight.dim() == 4:
        module = module.to(memory_format=torch.channels_last)
    # The gradient lies in the other layout.
    module.weight.grad = torch.randn(module.weight.shape)
    count = module.weight.shape[dim]
    found = layer_context(Layer('', module, (dim,), torch.arange(count)))
    assert found.filters.shape == (count, module.weight.numel() // count)
    for n in range(count):
        weight = module.weight.detach().select(dim, n)
        gradient = module.weight.grad.select(dim, n)
        pairs = zip(found.filters[n], found.gradient[n], strict=True)
        expected = zip(weight.flatten(), gradient.flatten(), strict=True)
        assert sorted(map(tuple, map(_numbers, pairs))) == sorted(
            map(tuple, map(_numbers, expected))
        )


def _numbers(pair):
    return [float(value) for value in pair]


def test_filters_are_not_copied():
    module = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    found = layer_context(Layer('', module, (0,), torch.arange(8)))
    assert found.filters.data_ptr() == module.weight.data_ptr()


def test_the_scale_of_a_norm_may_be_anywhere():
    """A functional norm, whose scale is a parameter of the network."""
    owner = nn.ParameterDict({'gain': torch.rand(5)})
    layer = Layer(
        '', nn.Linear(3, 5), (0,), torch.arange(5), owner, scale='gain'
    )
    assert torch.equal(layer_context(layer).scale, owner['gain'])
    assert layer_context(layer).shift is None
    owner['offset'] = torch.rand(5)
    layer.shift = 'offset'
    assert torch.equal(layer_context(layer).shift, owner['offset'])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', OF_WEIGHTS)
def test_half_precision_is_scored_as_what_it_is_in_float32(name, dtype):
    """Sums of many weights leave its range, and squares of small ones."""
    images = torch.randn(2, 40)
    model = nn.Sequential(nn.Linear(40, 512), nn.ReLU(), nn.Linear(512, 90))
    with torch.no_grad():
        model[0].weight.mul_(2e3)
        model[2].weight.mul_(1e-4)
    half = model.to(dtype)
    wide = copy.deepcopy(half).float()
    for network, x in ((half, images.to(dtype)), (wide, images)):
        attach(network, x, score=name, normalisation='none', method='uniform')
        network.pruner.begin({'flops': 0.9}, 2)
    torch.testing.assert_close(half.pruner.scores, wide.pruner.scores)


@pytest.mark.parametrize('name', NAMES)
def test_messages_call_a_score_as_configs_do(name):
    assert score_name(SCORES.build(name)) == name


def test_messages_call_a_function_by_its_own_name():
    def largest(context):
        return context.filters.amax(dim=1)

    assert score_name(FunctionScore(largest)) == 'largest'
