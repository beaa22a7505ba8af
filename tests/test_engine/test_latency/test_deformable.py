# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
from torch import nn
from torch.nn import functional
from torchvision.ops import DeformConv2d

from mmlapp.core.trace import trace
from mmlapp.engine.latency.layers import BACKENDS, layer_run
from mmlapp.engine.latency.setting import Setting


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
