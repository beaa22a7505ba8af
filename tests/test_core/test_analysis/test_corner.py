# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Large images that a network or its parts are given become small ones."""

from types import SimpleNamespace

import pytest
import torch
from notes import Notes
from torch import nn

from mmlapp.core import PruningError, analyse
from mmlapp.core.analysis.corner import TOLD, Corner
from mmlapp.core.trace import running_modules


class Detector(nn.Module):
    """Notes the edges of what its modules are given."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 2, 1), nn.MaxPool2d(2))
        self.head = nn.Conv2d(2, 1, 1)
        self.met = Notes()
        for module in self.modules():
            module.register_forward_pre_hook(self.note)

    def note(self, module, args):
        self.met.append(args[0].shape[-1])

    def forward(self, image, scale=1):
        return self.head(self.backbone(image))


def run(model, function):
    corner = Corner(model)
    modules = model.modules()
    with running_modules(modules) as running, corner.cutting(running):
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


class Sized(Detector):
    """Needs to be told the size of its image."""

    def forward(self, image, sample):
        assert sample.shape == tuple(image.shape[2:])
        return super().forward(image)


class Example:
    """Runs it on an image and on a corner of it, and counts how often."""

    def __init__(self, model):
        self.model, self.edges = model, Notes()

    def __call__(self):
        return self.run(98)

    def on_corner(self):
        return self.run(64)

    def run(self, edge):
        self.edges.append(edge)
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, 3, 98, 98, generator=generator)
        sample = SimpleNamespace(shape=(edge, edge))
        return self.model(image[..., :edge, :edge], sample)


def test_an_example_that_knows_its_corner_is_run_there():
    example = Example(Sized())
    found = analyse(example.model, example)
    assert [group.size for group in found.groups.prunable] == [2]
    # FLOPs are those of the whole image: 1x1, 3 -> 2, and 2 -> 1 on a quarter.
    assert found.flops == 98 * 98 * 3 * 2 + 49 * 49 * 2 * 1
    # Followed on the whole, tried on the corner alone.
    assert example.edges[0] == 98
    assert set(example.edges[1:]) == {64}


class Choosy(Sized):
    """Has another layer where images are small, or refuses them."""

    def __init__(self, refuses):
        super().__init__()
        self.small, self.refuses = nn.Conv2d(1, 1, 1), refuses

    def forward(self, image, sample):
        out = super().forward(image, sample)
        if image.shape[-1] > 90:
            return out
        assert not self.refuses, 'too small'
        return self.small(out)


@pytest.mark.parametrize('refuses', [False, True])
def test_what_runs_otherwise_on_its_corner_is_run_on_the_whole(refuses):
    example = Example(Choosy(refuses))
    found = analyse(example.model, example, unused='small')
    assert [group.size for group in found.groups.prunable] == [2]
    # Once to see that the corner will not do.
    assert example.edges.count(64) == 1
    assert example.edges.count(98) > 3


def test_an_example_without_a_corner_of_its_own():
    model, image = Detector(), torch.rand(1, 3, 98, 98)
    model._forward_pre_hooks.clear()
    example = Example(model)
    example.on_corner, example.run = None, lambda edge: model(image)
    assert len(analyse(model, example).groups.prunable) == 1
    assert {*model.met} == {98, 49, 64, 32}


def test_a_corner_that_is_no_function_is_refused():
    example = Example(Sized())
    example.on_corner = torch.rand(1, 3, 64, 64)
    with pytest.raises(
        PruningError, match=r'example\.on_corner=Tensor: expected'
    ):
        analyse(example.model, example)
