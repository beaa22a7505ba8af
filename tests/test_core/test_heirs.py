# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import torch
from torch import nn

from mmlapp.core.heirs import Heir


def test_an_heir_takes_its_part_of_anything_of_the_old_shape():
    new = nn.Parameter(torch.zeros(2, 3))
    heir = Heir(new, lambda tensor: tensor[[0, 2]].clone())
    momentum = torch.arange(9.0).view(3, 3)
    taken = heir.take(momentum)
    assert taken.tolist() == [[0, 1, 2], [6, 7, 8]]
    assert taken.shape == new.shape
    taken.zero_()
    assert momentum[0].tolist() == [0, 1, 2]
