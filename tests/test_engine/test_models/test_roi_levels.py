# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
from contextlib import suppress

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.model import BaseModel
from torch import nn

from mmlapp.core import analyse, attach, narrow
from mmlapp.engine.models.example import example_of
from mmlapp.engine.models.roi_levels import levels_in_turn


class Pool(nn.Module):
    """The same for every box, in operators that are followed."""

    output_size = 2, 2

    def forward(self, features, rois):
        return features.mean((2, 3), keepdim=True).expand(len(rois), -1, 2, 2)


class TwoLevels(BaseModel):
    """Reads small boxes from one level, large ones from the other."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.pool = SingleRoIExtractor(
            dict(type='RoIAlign', output_size=2, sampling_ratio=1),
            out_channels=8,
            featmap_strides=[1, 2],
            finest_scale=10,
        )
        self.pool.roi_layers = nn.ModuleList([Pool(), Pool()])
        self.head = nn.Conv2d(8, 4, 1)
        self.edge = 4.0

    def forward(self, inputs, data_samples=None, mode='tensor'):
        levels = [self.fine(inputs), self.coarse(inputs[..., ::2, ::2])]
        # Two boxes: batch index and corners.
        rois = torch.tensor([[0.0, 0, 0, self.edge, self.edge]] * 2)
        return self.head(self.pool(levels, rois.to(inputs)))


def test_all_levels_are_seen():
    """The example has small boxes alone, a later image a large one."""
    model = TwoLevels().eval()
    forward = example_of(model, (3, 32, 32)).forward
    (group,) = analyse(model, forward).groups.prunable
    modules = {member.site.module for member in group.members}
    # That of the pool is an attribute, how many channels come out.
    assert modules == {'fine', 'coarse', 'head', 'pool'}
    pruner = attach(model, forward)
    pruner.begin({'flops': 0.5}, steps=1)
    pruner.step()
    small = narrow(copy.deepcopy(model), pruner.plan())
    images = torch.randn(1, 3, 32, 32)
    for edge in (4.0, 28.0):
        model.edge = small.edge = edge
        torch.testing.assert_close(small(images), model(images))


def test_boxes_have_their_own_levels_again():
    model = TwoLevels()
    rois = torch.tensor([[0, 0, 0, 4, 4], [0, 0, 0, 28, 28], [0, 0, 0, 5, 5]])
    with suppress(ZeroDivisionError), levels_in_turn(model):
        with levels_in_turn(model):
            assert model.pool.map_roi_levels(rois, 2).tolist() == [0, 1, 0]
        assert model.pool.map_roi_levels(rois[1:], 2).tolist() == [0, 1]
        raise ZeroDivisionError
    assert model.pool.map_roi_levels(rois, 2).tolist() == [0, 1, 0]
    assert model.pool.map_roi_levels(rois[1:], 2).tolist() == [1, 0]
