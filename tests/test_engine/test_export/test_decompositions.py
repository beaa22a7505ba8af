# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.nn.functional import adaptive_max_pool2d as pool

from mmlapp.engine.export.base import Settings
from mmlapp.engine.export.decompositions import (
    adaptive_max_pool2d,
    decomposed,
)
from mmlapp.engine.export.files import export
from mmlapp.engine.export.torch_export import exported_program


@pytest.mark.parametrize('size', [(4, 6), (2, 3), (8, 1), (8, 12)])
def test_equal_windows(size):
    x = torch.rand(2, 3, 8, 12)
    torch.testing.assert_close(
        adaptive_max_pool2d(x, size), pool(x, size, return_indices=True)
    )


def test_windows_that_are_not_equal_are_left():
    x = torch.rand(2, 3, 8, 12)
    assert adaptive_max_pool2d(x, (3, 3)) is NotImplemented
    assert adaptive_max_pool2d(x, (4, 5)) is NotImplemented


def test_only_graphs_that_have_one_are_changed():
    images = torch.rand(2, 3, 8, 12)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveMaxPool2d(2))
    program = exported_program(net.eval(), images, Settings())
    found = decomposed(program)
    targets = {str(node.target) for node in found.graph.nodes}
    assert 'aten.max_pool2d_with_indices.default' in targets
    assert 'aten.adaptive_max_pool2d.default' not in targets
    torch.testing.assert_close(found.module()(images), net(images))
    assert decomposed(found) is found


@pytest.mark.slow
def test_onnx_files_hold_it(tmp_path):
    net, images = nn.AdaptiveMaxPool2d(2).eval(), torch.rand(2, 3, 8, 12)
    assert export(net, images, tmp_path / 'net.onnx').error == 0
