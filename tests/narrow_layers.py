# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Layers that are built wide and narrow, and their calls in a trace."""

import torch
from torch import nn

from mmlapp.core.trace import trace

# How each is built, and its dense widths.
LAYERS = {
    'plain': (lambda i, o: nn.Conv2d(i, o, 3, padding=1, stride=2), (8, 12)),
    'one dimension': (lambda i, o: nn.Conv1d(i, o, 5), (8, 12)),
    'transposed': (lambda i, o: nn.ConvTranspose2d(i, o, 2, 2), (8, 12)),
    'linear': (nn.Linear, (8, 12)),
}


def call_of(layer, shape):
    """The one call of a layer that is run on an input of a shape."""
    x = torch.rand(shape)
    (call,) = trace(layer, lambda: layer(x)).calls
    return call


def sizes_behind(layer):
    """What an input of a layer has behind its channels."""
    sizes = {nn.Linear: (), nn.Conv1d: (9,)}
    return sizes.get(type(layer), (6, 6))
