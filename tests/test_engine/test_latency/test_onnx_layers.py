# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from narrow_layers import call_of
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.latency import onnx_layers
from mmlapp.engine.latency.layers import layer_run
from mmlapp.engine.latency.onnx_layers import onnx_layer
from mmlapp.engine.latency.setting import Setting
from mmlapp.engine.latency.shapes import shape_at


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


def test_onnx_runtime_that_is_not_installed(monkeypatch):
    call = call_of(nn.Conv2d(4, 4, 3), (1, 4, 6, 6))
    monkeypatch.setattr(onnx_layers, 'find_spec', lambda name: None)
    with pytest.raises(PruningError, match=r'onnxruntime.*mmlapp\[export\]'):
        layer_run(call, {}, Setting('onnxruntime'))
