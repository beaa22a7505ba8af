# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from narrow_layers import LAYERS, call_of, sizes_behind
from torch import nn

from mmlapp.core import PruningError
from mmlapp.core.trace import LayerCall
from mmlapp.engine.latency.layers import BACKENDS, layer_run
from mmlapp.engine.latency.setting import Setting


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', LAYERS)
def test_every_backend_runs_every_layer(name, backend):
    build, (wide_in, wide_out) = LAYERS[name]
    wide, narrow = build(wide_in, wide_out), build(5, 7)
    rest = sizes_behind(wide)
    call = call_of(wide, (2, wide_in, *rest))
    run = layer_run(call, {'in': 5, 'out': 7}, Setting(backend))
    found = run()
    (found,) = found if isinstance(found, list) else [found]
    assert tuple(found.shape) == narrow(torch.rand(2, 5, *rest)).shape


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
