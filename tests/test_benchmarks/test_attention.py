# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import sys

import attention
import pytest
from torch import nn


class Tokens(nn.Module):
    """An attention of three heads over the columns of an image."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(attention.EDGE, 6)
        self.mix = nn.MultiheadAttention(6, 3, batch_first=True)

    def forward(self, x):
        x = self.embed(x[:, 0])
        return self.mix(x, x, x, need_weights=False)[0]


def test_a_row_for_each_network(monkeypatch, capsys):
    """All goes but the outputs, which nothing of attention shares."""
    monkeypatch.setattr(attention, 'NETWORKS', {'tokens': Tokens})
    monkeypatch.setattr(sys, 'argv', ['attention.py'])
    attention.main()
    assert capsys.readouterr().out == '| tokens | 100.0 % |\n'


def test_names_of_networks(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['attention.py', 'ViT'])
    with pytest.raises(SystemExit):
        attention.main()
    assert 'ViT: choose of' in capsys.readouterr().err
