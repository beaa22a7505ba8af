# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

from mmlapp.core import ChannelPlan
from mmlapp.core.plan.entries import BranchPlan
from mmlapp.core.plan.kept import Kept
from mmlapp.core.plan.writing import Numbered, write_entries

HALF, TWO = Kept(4, (0, 2)), Kept(3, (0, 1))


def test_entries_get_numbers_in_the_order_in_which_they_come():
    words = Numbered()
    assert [words.number(word) for word in 'abacb'] == [0, 1, 0, 2, 1]
    assert list(words) == ['a', 'b', 'c']


def test_equal_entries_are_written_once():
    """The very text, which other releases read."""
    plan = ChannelPlan(
        groups={'a': HALF, 'b': TWO},
        # Equal, and another object.
        slices={'a.weight': {0: Kept(4, (0, 2))}, 'b.weight': {1: HALF}},
        attributes={'b.groups': TWO},
        branches={'a': BranchPlan({'type': 'depthwise'}, TWO, HALF)},
        details={'a': {'outputs': HALF}},
        costs={'flops': {'dense': 8, 'pruned': 2}},
        shapes={'a.weight': (4, 3), 'b.weight': (3, 4), 'c.weight': (4, 3)},
        biases=('b',),
        heads={'b': 2},
        kinds={'a': 'linear layer'},
    )
    assert write_entries(plan) == {
        'costs': {'flops': {'dense': 8.0, 'pruned': 2.0}},
        'groups': {'a': 0, 'b': 1},
        'unit': 'channels',
        'branches': {
            'a': {
                'settings': {'type': 'depthwise'},
                'inputs': 1,
                'outputs': 0,
            }
        },
        'details': {'a': {'outputs': 0}},
        'attributes': {'b.groups': 1},
        'slices': {'a.weight': {'0': 0}, 'b.weight': {'1': 0}},
        'biases': ['b'],
        'heads': {'b': 2},
        'kinds': {'a': 'linear layer'},
        'tensors': {'a.weight': 0, 'b.weight': 1, 'c.weight': 0},
        'kept': [[4, '0,2'], [3, '0-1']],
        'shapes': [[4, 3], [3, 4]],
    }
    assert json.loads(json.dumps(write_entries(plan))) == write_entries(plan)
