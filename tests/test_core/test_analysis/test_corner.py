# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Large images that a network or its parts are given become small ones."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmlapp.core.analysis.corner import TOLD, Corner
from mmlapp.core.trace import running_modules


class Detector(nn.Module):
    """Notes the edges of what its modules are given."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 2, 1), nn.MaxPool2d(2))
        self.head = nn.Conv2d(2, 1, 1)
        self.met = []
        for module in self.modules():
            module.register_forward_pre_hook(self.note)

    def note(self, module, args):
        self.met.append(args[0].shape[-1])

    def forward(self, image, scale=1):
        return self.head(self.backbone(image))


def run(model, function):
    corner = Corner(model)
    with running_modules(model) as running, corner.cutting(running):
        function()
    return corner.large


@pytest.mark.parametrize(
    ('edge', 'first', 'large'), [(100, 64, True), (90, 90, False)]
)
@pytest.mark.parametrize('parts', [False, True])
def test_images_of_a_network_or_its_parts(edge, first, large, parts):
    model, image = Detector(), torch.rand(1, 3, edge, edge)

    def by_parts():
        model.head(model.backbone(image))

    assert run(model, by_parts if parts else lambda: model(image)) is large
    # The backbone, its two layers, and the head on half the size.
    assert model.met[not parts :] == [first, first, first, first // 2]
    model.met.clear()
    model(image)
    assert set(model.met) == {edge, edge // 2}


def test_images_by_name_are_cut_too():
    model, outputs = Detector(), []
    model._forward_pre_hooks.clear()
    run(model, lambda: outputs.append(model(image=torch.rand(1, 3, 98, 98))))
    assert outputs[0].shape[-1] == 32


def test_what_else_may_tell_the_size():
    model = Detector()
    sample = SimpleNamespace(shape=(98, 98))
    with pytest.raises(RuntimeError, match=TOLD):
        run(model, lambda: model(torch.rand(1, 3, 98, 98), sample))
