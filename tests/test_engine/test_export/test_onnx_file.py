# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from mmlapp.core import PruningError
from mmlapp.core.plan.kept import Kept
from mmlapp.core.units.striped import keep_stripes
from mmlapp.engine.export.base import Settings
from mmlapp.engine.export.files import export


def shapes(values):
    return {
        value.name: [
            dim.dim_param or dim.dim_value
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in values
    }


@pytest.mark.parametrize(
    'slim', [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_names_and_open_dimensions(net, images, tmp_path, slim):
    path = tmp_path / 'net.onnx'
    settings = Settings('size', slim=slim)
    export(net, images, path, ['logits', 'features'], settings)
    model = onnx.load(path)
    assert [e.version for e in model.opset_import] == [18]
    assert shapes(model.graph.input) == {
        'input': ['batch', 3, 'height', 'width']
    }
    assert shapes(model.graph.output) == {
        'logits': ['batch', 5],
        'features': ['batch', 4, 'height', 'width'],
    }


class Halved(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(2)

    def forward(self, x):
        # As an FPN: only where the edge is even.
        half = self.pool(x)
        return x + nn.functional.interpolate(half, scale_factor=2.0)


@pytest.mark.slow
def test_sizes_of_a_pyramid_are_multiples_of_32(tmp_path):
    path = tmp_path / 'net.onnx'
    images = torch.rand(2, 3, 64, 96)
    export(Halved().eval(), images, path, settings=Settings('size'))
    found = shapes(onnx.load(path).graph.input)
    assert found == {'input': ['batch', 3, '32*height', '32*width']}


@pytest.mark.slow
def test_fixed_dimensions(net, images, tmp_path):
    path = tmp_path / 'net.onnx'
    export(net, images, path, settings=Settings('none', opset=20))
    model = onnx.load(path)
    assert [e.version for e in model.opset_import] == [20]
    assert shapes(model.graph.input) == {'input': [3, 3, 8, 8]}


@pytest.mark.slow
def test_an_opset_that_the_exporter_does_not_write(net, images, tmp_path):
    with pytest.raises(PruningError, match='in opset 18 alone'):
        export(net, images, tmp_path / 'net.onnx', settings=Settings(opset=9))
    assert not list(tmp_path.iterdir())


def test_onnxslim_is_asked_for_by_name(net, images, tmp_path, monkeypatch):
    monkeypatch.setattr(
        'mmlapp.engine.export.base.find_spec',
        lambda name: None if name == 'onnxslim' else name,
    )
    settings = Settings(slim=True)
    with pytest.raises(PruningError, match='pip install onnxslim'):
        export(net, images, tmp_path / 'net.onnx', settings=settings)


@pytest.mark.slow
def test_stripes_at_other_sizes(tmp_path):
    """What a stride skips depends on whether the size is even."""
    path = tmp_path / 'net.onnx'
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, padding=1)
    ).eval()
    for layer in model:
        keep_stripes(layer, Kept(36, range(0, 36, 3)))
    images = torch.rand(2, 3, 8, 8)
    export(model, images, path, settings=Settings('size'))
    session = onnxruntime.InferenceSession(path)
    for size in ((8, 8), (7, 12)):
        images = torch.rand(1, 3, *size)
        (found,) = session.run(None, {'input': images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(images))


@pytest.mark.slow
def test_the_checker_of_onnx_has_its_say(net, images, tmp_path, monkeypatch):
    def refuse(path, full_check):
        assert full_check
        raise onnx.checker.ValidationError('a node without a name')

    monkeypatch.setattr(onnx.checker, 'check_model', refuse)
    with pytest.raises(PruningError, match='a node without a name'):
        export(net, images, tmp_path / 'net.onnx')
    assert not list(tmp_path.iterdir())
