# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A network in which one layer's outputs belong to two groups."""

import torch
from torch import nn


class JoinedLayers(nn.Module):
    """Adds two layers' joined outputs to one layer's, in every mode."""

    def __init__(self):
        super().__init__()
        self.whole = nn.Conv2d(3, 8, 1)
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Conv2d(3, 4, 1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, image, samples=None, mode='tensor'):
        whole = self.whole(image)
        parts = [self.first(image), self.second(image)]
        return self.last(whole + torch.cat(parts, 1))
