# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.latency import backends
from mmlapp.engine.latency.backends import network_run
from mmlapp.engine.latency.setting import Setting


class TwoOutputs(nn.Module):
    """What a detector returns: tensors in containers, and other things."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        y = self.network(x)
        return {'a': [y], 'b': (2 * y, None)}


@pytest.mark.parametrize('backend', ['torch', 'onnxruntime'])
def test_a_backend_computes_what_torch_does(network, images, backend):
    model = TwoOutputs(network).eval()
    expected = network(images).detach()
    found = network_run(model, images, Setting(backend))()
    torch.testing.assert_close(found, [expected, 2 * expected])


@pytest.mark.slow
def test_compiled_networks(network, images):
    found = network_run(network, images, Setting('compile'))()
    torch.testing.assert_close(found, [network(images).detach()])


def test_compile_is_told_the_batch(network, images, monkeypatch):
    """Without the compiler, which takes seconds."""
    asked = []

    def compiled(model, dynamic):
        asked.append(dynamic)
        return model

    monkeypatch.setattr(torch, 'compile', compiled)
    found = network_run(network, images, Setting('compile'))()
    torch.testing.assert_close(found, [network(images).detach()])
    assert asked == [False]


def test_openvino_that_is_not_installed(network, images, monkeypatch):
    monkeypatch.setattr(backends, 'find_spec', lambda name: None)
    with pytest.raises(PruningError, match='pip install openvino'):
        network_run(network, images, Setting('openvino'))


def test_openvino_that_is(network, images, monkeypatch):
    """A stand-in, for it is not installed here: it doubles its input."""

    def write(network, images, folder):
        path = Path(folder, 'network.onnx')
        path.touch()
        return path

    class Core:
        def compile_model(self, path, device, settings):
            assert path.exists()
            assert (device, settings) == ('CPU', {'INFERENCE_NUM_THREADS': 3})
            return lambda inputs: {'output': 2 * inputs[0]}

    module = ModuleType('openvino')
    module.__spec__, module.Core = ModuleSpec('openvino', None), Core
    monkeypatch.setitem(sys.modules, 'openvino', module)
    monkeypatch.setattr(backends, '_onnx_file', write)
    found = network_run(network, images, Setting('openvino', threads=3))()
    torch.testing.assert_close(found, [2 * images])


def test_onnx_runtime_that_is_not_installed(network, images, monkeypatch):
    from mmlapp.engine.export import base

    monkeypatch.setattr(base, 'find_spec', lambda name: None)
    with pytest.raises(PruningError, match=r'mmlapp\[export\]'):
        network_run(network, images, Setting('onnxruntime'))
