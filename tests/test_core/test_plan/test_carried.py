# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import ChannelPlan, PruningError
from mmlapp.core.plan.carried import (
    from_entry,
    plans_entry,
    read_plans_entry,
    to_entry,
)
from mmlapp.core.plan.kept import Kept


def test_plans_come_back_in_order():
    plans = [
        ChannelPlan(
            groups={'a': Kept(4, index)},
            slices={'a.weight': {0: Kept(4, index)}},
            shapes={'a.weight': (4, 3)},
        )
        for index in ((0, 2), (1,))
    ]
    entry = plans_entry(plans)
    assert entry.dtype == torch.uint8
    assert read_plans_entry(entry) == tuple(plans)


@pytest.mark.parametrize(
    ('entry', 'text'),
    [
        ('text', 'of type str, expected text as bytes'),
        # One byte of a file may be as many as one likes.
        (torch.zeros(1, dtype=torch.uint8).expand(10**5), 'smaller storage'),
        (torch.zeros(9, device='meta'), 'a tensor without values'),
        (torch.eye(3).to_sparse(), 'a sparse or quantized'),
        (torch.tensor([255]), 'no text as bytes'),
        (torch.tensor([91]), 'no complete JSON'),
        (to_entry({'a': 1}), 'it is a dict, expected a list'),
        (to_entry([{}]), 'no channel plan'),
    ],
)
def test_damaged_entries(entry, text):
    with pytest.raises(PruningError, match=text):
        read_plans_entry(entry)


def test_any_plain_data():
    assert from_entry(to_entry([['é', 1.5]])) == [['é', 1.5]]
