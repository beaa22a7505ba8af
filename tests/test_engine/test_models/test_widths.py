# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.models.widths import backbone_widths, output_widths


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 7, 1)

    def forward(self, x):
        assert not self.training
        a = self.a(x)
        b = self.b(a)
        return a, {'b': b, 'tokens': b.flatten(2).transpose(1, 2), 'n': 3}


def test_widths_of_all_outputs():
    body = Body()
    assert backbone_widths(body, (3, 4, 4)) == 'in_channels=[5, 7, 7]'
    assert body.training
    whole = nn.Sequential(nn.Flatten(), nn.Linear(12, 9))
    image = torch.zeros(1, 3, 2, 2)
    found = output_widths(whole, '1', lambda: whole(image))
    assert found == 'in_channels=9'
    assert output_widths(whole, '1', lambda: None) == ''


def test_a_backbone_that_does_not_run():
    with pytest.raises(
        PruningError, match=r'does not run .*input_shape=1x4x4'
    ):
        backbone_widths(Body(), (1, 4, 4))
