# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Layers of PyTorch that run as one operator, past what is masked in them."""

import copy

import pytest
import torch
from torch import nn

from mmlapp.core import attach, narrow
from mmlapp.core.attention.unfused import Unfused, fuse_again, unfuse

WIDTH, HEADS = 12, 4


class Net(nn.Module):
    """An encoder that PyTorch runs fused, with nested tensors if padded."""

    def __init__(self, padded):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 16, dropout=0, batch_first=True
        )
        self.first = nn.Linear(3, WIDTH)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.last = nn.Linear(WIDTH, 5)
        self.padded = padded

    def forward(self, x):
        n, length, _ = x.shape
        mask = torch.arange(length).expand(n, -1) >= length - 2
        y = self.encoder(
            self.first(x), src_key_padding_mask=mask if self.padded else None
        )
        return self.last(y[:, : length - 2])


@pytest.mark.filterwarnings('ignore:.*nested tensors')
@pytest.mark.parametrize('padded', [True, False])
@torch.no_grad()
def test_masked_and_narrowed_agree(padded, mask_randomly):
    model = Net(padded).double().eval()
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    pruner = attach(model, x)
    # The channels around the attention, and two of the four heads.
    assert 'first' in [group.name for group in pruner.groups]
    mask_randomly(pruner)
    masked = model(x)
    slim = narrow(copy.deepcopy(model), pruner.plan())
    assert not any(isinstance(m, Unfused) for m in slim.modules())
    torch.testing.assert_close(slim(x), masked, rtol=1e-11, atol=1e-11)


def test_encoders_without_such_modules_stay_as_they_are():
    encoder = Net(False).encoder
    kinds = [type(module) for module in encoder.modules()]
    unfuse(encoder, nn.Conv2d)
    assert [type(module) for module in encoder.modules()] == kinds
    unfuse(encoder, nn.LayerNorm)
    assert encoder.use_nested_tensor is False
    for module in encoder.modules():
        fuse_again(module)
    assert [type(module) for module in encoder.modules()] == kinds
