# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""From rows of layers to channels of groups, by loops over numbers."""

import pytest
import torch
from torch import nn

from mmlapp.core.score.group_scores import GroupInfo, Layer
from mmlapp.core.score.rows import Rows

# By group its size, and by layer the channel at every row: once each, twice
# with one of none, and of some channels alone.
GROUPS = [
    (2, [[1, 0, -1, 1, 0]]),
    (3, [[0, 1, 2], [2, -1], [0, 0, 1]]),
    (1, [[0]]),
    (2, [[0, 1]]),
]


@pytest.fixture
def rows():
    groups = [
        GroupInfo(
            '',
            size,
            [
                Layer('', nn.Linear(1, 1), (0,), torch.tensor(layer))
                for layer in layers
            ],
        )
        for size, layers in GROUPS
    ]
    return Rows(groups, torch.device('cpu'))


def mean(values):
    return sum(values) / len(values) if values else 0


def test_means_over_rows_and_then_over_layers(rows):
    values = torch.rand(sum(rows.sizes)).double()
    numbers, slots, channels = iter(values.tolist()), [], []
    for size, layers in GROUPS:
        parts = [[(c, next(numbers)) for c in layer] for layer in layers]
        means = [
            [mean([v for c, v in part if c == i]) for i in range(size)]
            for part in parts
        ]
        slots += [value for layer in means for value in layer]
        channels += [mean(found) for found in zip(*means, strict=True)]
    found = rows.by_slot(values)
    torch.testing.assert_close(found, torch.tensor(slots).double())
    expected = torch.tensor(channels).double()
    torch.testing.assert_close(rows.by_channel(found), expected)


def test_a_row_of_no_channel_says_nothing(rows):
    values = torch.ones(sum(rows.sizes))
    values[2] = float('nan')
    assert rows.by_slot(values).isfinite().all()


def test_what_is_known_of_channels_at_every_row(rows):
    values, start, expected = torch.rand(8), 0, []
    for size, layers in GROUPS:
        for layer in layers:
            expected.append(
                [float(values[start + c]) if c >= 0 else 0 for c in layer]
            )
        start += size
    found = [part.tolist() for part in rows.split(values)]
    assert found == expected
