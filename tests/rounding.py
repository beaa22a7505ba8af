# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A network about whose outputs rounding decides."""

import torch
from torch import nn


class Equal(nn.Module):
    """Five where two channels are equal, and zero elsewhere.

    Channels are compared behind a large shift: in single precision numbers of
    a million are told apart by a sixteenth.
    """

    def forward(self, x):
        shifted = x + 1e6
        return 5 * (shifted[:, :1] == shifted[:, 1:]).to(x.dtype)


def nearly_equal(count, width=8):
    """Images of two channels, which differ by a little in some pixels.

    Args:
        count (int): Pixels of that kind, at the left and at the right.
        width (int): Of the image, one pixel high.
    """
    images = torch.zeros(2, 2, 1, width)
    images[:, 1] = 3.0
    images[:, 1, :, [*range(count // 2), *range(-(count // 2), 0)]] = 1e-3
    return images
