# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
from torch import nn
from torch.nn import functional
from torchvision.ops import DeformConv2d

from mmlapp.core import PruningError, analyse
from mmlapp.core.attach import cost_context
from mmlapp.core.trace import LayerCall, trace
from mmlapp.engine.latency import layers
from mmlapp.engine.latency.layers import (
    BACKENDS,
    Kind,
    grid,
    kinds,
    layer_run,
    onnx_layer,
    shape_at,
)
from mmlapp.engine.latency.setting import Setting


def context_of(model, images):
    return cost_context(model, analyse(model, images))


@pytest.mark.parametrize('example', [1, 2])
def test_equal_layers_are_one_kind(images, example):
    """Two of the same shape, one of another size of the image."""
    images = images.repeat(example, 1, 1, 1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 4, 1),
    )
    found = kinds(context_of(model, images), batch=5, points=4, divisor=2)
    assert [kind.names for kind in found] == [
        ('0',),
        ('1', '2'),
        ('4',),
        ('5',),
    ]
    assert [list(kind.axes) for kind in found] == [
        ['out'],
        ['in', 'out'],
        ['in', 'out'],
        ['in'],
    ]
    assert [kind.call.inputs[0] for kind in found] == [5] * 4
    assert found[1].axes['in'] == (2, 4, 6, 8)


def test_all_points_in_the_order_of_a_table():
    call = LayerCall('a', 'convolution', {}, (1, 4, 8, 8), (2, 4, 1, 1), ())
    kind = Kind(('a',), call, {'in': (2, 4), 'out': (1, 2)})
    assert [tuple(w.values()) for w in kind.widths()] == [
        (2, 1),
        (2, 2),
        (4, 1),
        (4, 2),
    ]


def call_of(layer, shape):
    x = torch.rand(shape)
    (call,) = trace(layer, lambda: layer(x)).calls
    return call


LAYERS = {
    'plain': (lambda i, o: nn.Conv2d(i, o, 3, padding=1, stride=2), (8, 12)),
    'one dimension': (lambda i, o: nn.Conv1d(i, o, 5), (8, 12)),
    'transposed': (lambda i, o: nn.ConvTranspose2d(i, o, 2, 2), (8, 12)),
    'linear': (nn.Linear, (8, 12)),
}


def example(layer):
    sizes = {nn.Linear: (), nn.Conv1d: (9,)}
    return sizes.get(type(layer), (6, 6))


@pytest.mark.parametrize('name', LAYERS)
def test_shapes_are_those_of_a_layer_built_narrow(name):
    build, (wide_in, wide_out) = LAYERS[name]
    wide, narrow = build(wide_in, wide_out), build(5, 7)
    rest = example(wide)
    call = call_of(wide, (2, wide_in, *rest))
    expected = call_of(narrow, (2, 5, *rest))
    found = shape_at(call, {'in': 5, 'out': 7})
    assert found.inputs == expected.inputs
    assert found.weight == expected.weight


@pytest.mark.parametrize(
    ('groups', 'widths', 'narrow'),
    [
        # depthwise: all three go together
        (8, {'out': 3}, nn.Conv2d(3, 3, 3, groups=3)),
        # whole groups of two
        (4, {'out': 6}, nn.Conv2d(6, 6, 3, groups=3)),
        # the same columns of both groups
        (2, {'in': 3, 'out': 4}, nn.Conv2d(6, 4, 3, groups=2)),
    ],
)
def test_shapes_of_grouped_layers(groups, widths, narrow):
    """As the trace says which dimensions may shrink."""
    call = call_of(nn.Conv2d(8, 8, 3, groups=groups), (1, 8, 6, 6))
    assert set(widths) <= set(call.dims)
    expected = call_of(narrow, (1, narrow.in_channels, 6, 6))
    found = shape_at(call, widths)
    assert found.inputs == expected.inputs
    assert found.weight == expected.weight
    assert found.groups == narrow.groups


@pytest.mark.parametrize(
    ('full', 'points', 'divisor', 'widths'),
    [
        (64, 4, 8, (8, 16, 32, 48, 64)),
        (64, 8, 1, (4, 8, 16, 24, 32, 40, 48, 56, 64)),
        (10, 2, 8, (8, 10)),
        (3, 8, 8, (3,)),
    ],
)
def test_a_grid_of_widths(full, points, divisor, widths):
    call = call_of(nn.Conv2d(4, full, 1), (1, 4, 2, 2))
    assert grid(call, 'out', points, divisor) == widths


def test_a_grid_of_whole_groups():
    call = call_of(nn.Conv2d(12, 24, 3, groups=12), (1, 12, 6, 6))
    assert grid(call, 'out', 4, 1) == (4, 6, 12, 18, 24)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', LAYERS)
def test_every_backend_runs_every_layer(name, backend):
    build, (wide_in, wide_out) = LAYERS[name]
    wide, narrow = build(wide_in, wide_out), build(5, 7)
    rest = example(wide)
    call = call_of(wide, (2, wide_in, *rest))
    run = layer_run(call, {'in': 5, 'out': 7}, Setting(backend))
    found = run()
    (found,) = found if isinstance(found, list) else [found]
    assert tuple(found.shape) == narrow(torch.rand(2, 5, *rest)).shape


def test_onnx_computes_the_convolution():
    """Padding, stride, dilation and groups are those of the layer."""
    from onnxruntime import InferenceSession

    layer = nn.Conv2d(8, 4, (3, 5), 2, (1, 3), (1, 2), groups=2, bias=False)
    call = call_of(layer, (1, 8, 9, 12))
    model = onnx_layer(call, shape_at(call, {}))
    weight = model.graph.initializer[0]
    weight.raw_data = layer.weight.detach().numpy().tobytes()
    x = torch.rand(1, 8, 9, 12)
    session = InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {'input': x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), layer(x).detach())


def test_a_product_of_activations():
    call = LayerCall('p', 'product', {}, (6, 4, 8), (6, 8, 5), (6, 4, 5))
    for backend in BACKENDS:
        found = layer_run(call, {'out': 3}, Setting(backend))()
        (found,) = found if isinstance(found, list) else [found]
        assert tuple(found.shape) == (6, 4, 3)


def test_what_cannot_run_alone():
    call = call_of(nn.Conv2d(4, 4, 3), (1, 4, 6, 6))
    with pytest.raises(PruningError, match=r"'compile': .*onnxruntime"):
        layer_run(call, {}, Setting('compile'))


class Deformable(nn.Module):
    """The layer of torchvision, with offsets and factors of its own."""

    def __init__(self, inputs, outputs, **settings):
        super().__init__()
        self.offset = nn.Conv2d(inputs, 18, 3, padding=1, stride=2)
        self.mask = nn.Conv2d(inputs, 9, 3, padding=1, stride=2)
        self.conv = DeformConv2d(inputs, outputs, 3, 2, 1, **settings)

    def forward(self, x):
        return self.conv(x, self.offset(x), self.mask(x).sigmoid())


DEFORMABLE = {
    'torchvision': (Deformable, {}, 4),
    'torchvision, groups': (Deformable, dict(groups=2), 2),
    'version 1': (DeformConv2dPack, dict(deform_groups=2), 4),
    'version 2': (ModulatedDeformConv2dPack, {}, 4),
    'version 2, groups': (ModulatedDeformConv2dPack, dict(groups=2), 2),
}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', DEFORMABLE)
def test_deformable_convolutions_run_by_their_own_operator(
    name, backend, monkeypatch
):
    """Which is a plain one where nothing is moved, and every factor is 1."""
    build, settings, width = DEFORMABLE[name]
    if build is not Deformable:
        settings = dict(settings, kernel_size=3, stride=2, padding=1)
    wide, x = build(8, 6, **settings), torch.rand(2, 8, 6, 6)
    calls = trace(wide, lambda: wide(x)).calls
    call = next(c for c in calls if 'offset_groups' in c.geometry)
    made, rand = {}, torch.rand

    def noted(*size, **settings):
        value = rand(*size)
        # Factors come as separate sizes, input and weight as a shape.
        value = torch.ones(*size) if len(size) > 1 else value
        return made.setdefault(tuple(value.shape), value)

    monkeypatch.setattr(torch, 'rand', noted)
    monkeypatch.setattr(torch, 'randn', lambda *a, **k: torch.zeros(*a))
    found = layer_run(call, {'in': width, 'out': 2}, Setting(backend))()
    groups = settings.get('groups', 1)
    image, weight = made[2, 4, 6, 6], made[2, 4 // groups, 3, 3]
    expected = functional.conv2d(image, weight, None, 2, 1, 1, groups)
    found = torch.as_tensor(found[0] if backend == 'onnxruntime' else found)
    torch.testing.assert_close(found, expected)
    assert ((2, 9, 3, 3) in made) == ('version 1' not in name)


def test_inputs_of_a_deformable_convolution_fill_its_fields():
    layer = DeformConv2dPack(12, 6, 3, padding=1, deform_groups=3)
    x = torch.rand(1, 12, 6, 6)
    call = trace(layer, lambda: layer(x)).calls[-1]
    assert grid(call, 'in', 4, 1) == (3, 6, 9, 12)
    assert grid(call, 'in', 4, 2) == (6, 12)


def test_onnx_runtime_that_is_not_installed(monkeypatch):
    call = call_of(nn.Conv2d(4, 4, 3), (1, 4, 6, 6))
    monkeypatch.setattr(layers, 'find_spec', lambda name: None)
    with pytest.raises(PruningError, match=r'onnxruntime.*mmlapp\[export\]'):
        layer_run(call, {}, Setting('onnxruntime'))
