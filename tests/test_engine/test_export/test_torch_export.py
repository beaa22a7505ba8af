# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.engine.export.base import Settings
from mmlapp.engine.export.files import export, load
from mmlapp.engine.export.torch_export import exported_program


def test_the_graph_is_open_where_it_was_asked_for(images):
    program = exported_program(nn.ReLU(), images, Settings('batch'))
    (shape,) = [
        node.meta['val'].shape
        for node in program.graph.nodes
        if node.op == 'placeholder'
    ]
    assert isinstance(shape[0], torch.SymInt)
    assert shape[1:] == (3, 8, 8)


class Reads(nn.Module):
    def forward(self, x):
        return x * float(x.sum())


def test_what_cannot_be_followed_says_why(images):
    with pytest.raises(Exception, match='data-dependent'):
        exported_program(Reads(), images, Settings('size'))


def test_a_graph_that_is_not_good_enough_is_made_again(images):
    """In larger steps, until one is."""
    tried = []

    def check(program, step):
        tried.append(step)
        if step < 64:
            raise ValueError('only some sizes')

    large = torch.rand(2, 3, 128, 192)
    settings = Settings('size')
    program = exported_program(nn.ReLU(), large, settings, check)
    assert tried == [1, 32, 64]
    program.module()(torch.rand(5, 3, 64, 256))


class Pyramid(nn.Module):
    """Its last level has half of the pixels of one with a stride of 32."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(6))

    def forward(self, x):
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        up = nn.functional.interpolate(levels[5], scale_factor=2.0)
        return levels[4] + up


@pytest.mark.slow
def test_a_pyramid_runs_on_every_size_that_is_open(tmp_path):
    path = tmp_path / 'net.pt2'
    images = torch.rand(2, 3, 128, 192)
    network = Pyramid().eval()
    export(network, images, path, settings=Settings('size'))
    other = torch.rand(1, 3, 192, 256)
    torch.testing.assert_close(load(path)(other), [network(other)])
