# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What cannot be followed is refused with what to give instead."""

import copy
import random
import warnings

import pytest
import torch
from torch import nn

from mmlapp.core import (
    PruningError,
    PruningWarning,
    analyse,
    attach,
    merge_bypasses,
    narrow,
)
from mmlapp.core.analysis.refusals import check_repeats
from mmlapp.core.trace import trace


@pytest.fixture
def parts(net, conv):
    """Makes a network of three layers from a function."""

    def make(function):
        return net(function, a=conv(3, 8), b=conv(8, 8), c=conv(8, 4))

    return make


def fails(m, x):
    raise KeyError('oh')


RUNS = {
    'forward fails': (
        fails,
        r"does not run on the example \(KeyError: 'oh'\)\. Give an input",
    ),
    'too many channels': (
        lambda m, x: m.a(torch.cat([x, x], dim=1)),
        r'does not run on the example \(RuntimeError: .*to have 3 channels',
    ),
    'no tensor': (
        lambda m, x: len(m.c(m.b(m.a(x)))),
        'returns no tensor on the example but int: which channels must stay',
    ),
    'not made yet': (
        lambda m, x: (m.a(x), (m.b(y) for y in [m.a(x)])),
        'returns a generator on the example: .* returns a list of it',
    ),
    'nothing': (
        lambda m, x: [m.a(x), None][1],
        'returns no tensor on the example but NoneType',
    ),
}


@pytest.mark.parametrize('name', RUNS)
def test_a_forward_that_cannot_be_used(parts, image, name):
    function, match = RUNS[name]
    model = parts(function)
    with pytest.raises(PruningError, match=match) as caught:
        attach(model, image)
    assert (caught.value.__cause__ is None) == (name[:2] == 'no')
    assert not hasattr(model, 'pruner')


def test_a_network_that_runs_and_cannot_be_followed(parts, image):
    """Nested tensors have shapes that no operator may ask for."""

    def forward(m, x):
        rows = list(m.c(m.b(m.a(x))).flatten(2).mT)
        nested = torch.nested.nested_tensor(rows, layout=torch.jagged)
        return nested.sin().to_padded_tensor(0.0)

    match = 'runs on the example, and its channels cannot be followed there'
    with pytest.raises(PruningError, match=match) as caught:
        attach(parts(forward), image)
    assert caught.value.__cause__ is not None


# Of the compiler itself.
@pytest.mark.filterwarnings('ignore:The .grad attribute:UserWarning')
def test_a_network_with_compiled_conditions_runs_on(parts, image):
    """What failed in the trace is kept by the compiler of torch.cond."""

    def forward(m, x):
        x = m.b(m.a(x))
        double, half = (lambda y: 2 * y), (lambda y: y / 2)
        return m.c(torch.cond(x.sum() > 0, double, half, (x,)))

    model = parts(forward)
    expected = model(image)
    with pytest.raises(PruningError, match='runs on the example'):
        attach(model, image)
    assert torch.equal(model(image), expected)


def turns(m, x):
    m.turn = not getattr(m, 'turn', False)
    x = m.a(x)
    return m.c(m.b(x) if m.turn else x)


def skips(m, x):
    x = m.a(x)
    return m.c(m.b(x) if next(m.chances) < 0.5 else x)


def test_a_network_that_takes_turns(parts, image):
    model = parts(turns)
    with pytest.raises(
        PruningError, match=r"calls other modules .*\('b' once, 'c' then\)"
    ):
        attach(model, image)
    assert not hasattr(model, 'turn') or model.turn  # as after one forward


@pytest.mark.parametrize('draws', [(0.1, 0.9), (0.9, 0.1)])
def test_a_network_that_skips_a_layer_by_chance(parts, image, draws):
    model = parts(skips)
    model.chances = iter(draws)
    with pytest.raises(PruningError, match='calls other modules'):
        analyse(model, lambda: model(image))


def test_a_network_that_only_stops_earlier(parts, image):
    model = parts(lambda m, x: next(m.ends)(m, m.a(x)))
    model.ends = iter([lambda m, x: m.c(m.b(x)), lambda m, x: x])
    with pytest.raises(PruningError, match=r"\('b' once, none then\)"):
        analyse(model, lambda: model(image))


def test_the_second_run_sees_a_corner_unless_other_modules_run_there(parts):
    edges = []

    def plain(m, x):
        edges.append(x.shape[-1])
        return m.c(m.b(m.a(x)))

    def sized(m, x):
        y = plain(m, x)
        return m.c(m.b(m.a(x))) + y if x.shape[-1] > 64 else y

    image = torch.rand(1, 3, 100, 100).double()
    for function, expected in (plain, [64]), (sized, [64, 100]):
        model = parts(function)
        record = trace(model, lambda m=model: m(image))
        edges.clear()
        runs = check_repeats(model, lambda m=model: m(image), record)
        assert edges == expected
        assert runs is (function is plain)


def test_noise_is_no_other_module(parts, image):
    """Random numbers are warned of, elsewhere."""
    random.seed(0)
    model = parts(lambda m, x: m.c(m.b(m.a(x) + random.random())))
    with pytest.warns(PruningWarning, match='other outputs at every call'):
        attach(model, image)


def test_outputs_that_are_no_numbers(parts, image):
    model = parts(lambda m, x: m.c(m.b(m.a(x / 0.0))))
    with pytest.warns(PruningWarning, match='gives NaN or Inf: whether'):
        attach(model, image)


def test_fused_layers_of_attention_are_no_other_modules():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 3)).eval()
    x = torch.rand(2, 5, 4)
    assert '1.linear1' in attach(model, x).keep_ratios()


def test_a_network_with_bypasses_is_refused(conv, image):
    """Until they are merged, nobody would narrow them."""
    model = nn.Sequential(conv(3, 8), conv(8, 4)).double()
    pruner = attach(model, image, bypass='pointwise')
    pruner.begin({'flops': 0.9}, 1)
    pruner.step()
    narrow(model, pruner.plan())
    with pytest.raises(PruningError, match='0 of the model has a bypass from'):
        attach(model, image)
    assert merge_bypasses(model) == {'0': None}
    assert attach(model, image).sizes == [pruner.mask.sum()]


def test_a_scripted_network_is_refused(conv, image):
    model = nn.Sequential(conv(3, 8), conv(8, 4))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # scripting is deprecated
        scripted = torch.jit.script(model)
    with pytest.raises(PruningError, match='the model is a TorchScript'):
        attach(scripted, image)
    with pytest.raises(PruningError, match='1 of the model is a TorchScr'):
        attach(nn.Sequential(conv(3, 3), scripted), image)


def test_a_compiled_network_is_refused(conv, image):
    model = nn.Sequential(conv(3, 8), conv(8, 4))
    compiled = torch.compile(model, backend='eager')
    with pytest.raises(PruningError, match=r'made by torch\.compile: prune'):
        attach(compiled, image)
    assert not hasattr(model, 'pruner')


def test_a_layer_without_a_shape_is_refused(image):
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyConv2d(4, 3))
    with pytest.raises(PruningError, match='weight of 0 of the model has no'):
        attach(model, image)


def test_a_parameter_that_the_first_forward_makes(net, conv, image):
    def forward(m, x):
        y = m.a(x)
        if not hasattr(m, 'scale'):
            m.scale = nn.Parameter(torch.ones(8, 1, 1))
        return m.b(y * m.scale)

    model = net(forward, a=conv(3, 8), b=conv(8, 4))
    with pytest.raises(PruningError, match=r'scale is a parameter that.*once'):
        analyse(model, image)
    model(image)
    assert len(analyse(model, image).groups.prunable) == 1


def test_a_refused_network_is_left_as_it_was(net, conv, image):
    def forward(m, x):
        m.calls.add_(1)
        m.a.weight.data.mul_(0.5)
        return m.b(m.a(x))

    model = net(forward, a=conv(3, 8), b=conv(9, 4), calls=torch.zeros(1))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PruningError, match='does not run on the example'):
        analyse(model, image)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_several_inputs(conv):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(3, 8), conv(1, 8), conv(8, 5)

        def forward(self, x, y=None):
            return self.c(self.a(x) + self.b(y))

    x, y = torch.rand(1, 3, 8, 8), torch.rand(1, 1, 8, 8)
    first, second = Two(), Two()
    for pruner in (
        attach(first, (x, y)),
        attach(second, lambda: second(x, y=y)),
    ):
        assert [(g.name, g.size) for g in pruner.groups] == [('a', 8)]
    with pytest.raises(PruningError, match='a tuple of its arguments'):
        attach(Two(), x)


@pytest.mark.parametrize(
    'example',
    [None, torch.rand(1, 3, 8, 8).numpy(), (3, 8, 8), [8], {'x': None}, ()],
)
def test_an_example_without_a_tensor(model, example):
    name = type(example).__name__
    with pytest.raises(PruningError, match=f'example={name}: there is no ten'):
        attach(model, example)


@pytest.mark.parametrize('kind', [None, nn.Conv2d, len])
def test_a_model_that_is_none(kind, image):
    with pytest.raises(PruningError, match=r'model=.*expected an nn.Module'):
        attach(kind, image)


def in_inference_mode(function, *args, **arguments):
    with torch.inference_mode():
        return function(*args, **arguments)


def test_what_was_prunable_in_inference_mode_can_be_trained(parts, image):
    """Attached, narrowed and merged: every parameter learns."""
    image = in_inference_mode(image.clone)
    model = parts(lambda m, x: m.c(m.b(m.a(x.mul_(1))).relu()))
    pruner = in_inference_mode(attach, model, image, bypass='depthwise')
    pruner.begin({'flops': 0.7}, 1)
    pruner.step()
    in_inference_mode(narrow, model, pruner.plan())
    in_inference_mode(merge_bypasses, model)
    model(torch.rand(2, 3, 8, 8).double()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('kind', [nn.Conv2d, nn.BatchNorm2d])
def test_a_network_made_in_inference_mode(conv, kind):
    model = nn.Sequential(conv(3, 8), conv(8, 4))
    layer = in_inference_mode(kind, *((4, 2, 1) if kind is nn.Conv2d else [4]))
    model.append(layer)
    with pytest.raises(
        PruningError, match=r'weight of 2 of the model was made in .*outside'
    ):
        attach(model, torch.rand(1, 3, 8, 8))
