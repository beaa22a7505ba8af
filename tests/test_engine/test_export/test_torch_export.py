# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.engine.export.base import Settings
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
