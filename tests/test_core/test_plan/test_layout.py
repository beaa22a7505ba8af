# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import torch

from mmlapp.core.plan.kept import Kept
from mmlapp.core.plan.layout import Layout
from mmlapp.core.trace import Site

MASK = torch.tensor([True, False, True, False])


def plan(layout, costs=None):
    return layout.plan(MASK, {'a': MASK}, costs or {})


def test_slices_and_attributes():
    """Index -1 stays; what loses nothing is left out."""
    layout = Layout(
        'channels',
        [
            (Site('a.weight', 0, 0, 4), torch.tensor([0, 1, 2, 3])),
            (Site('b.weight', 1, 4, 3), torch.tensor([3, -1, 1])),
            (Site('b.groups', 0, 7, 2, True), torch.tensor([1, 2])),
            (Site('c.weight', 0, 9, 2), torch.tensor([0, 2])),
        ],
    )
    found = plan(layout)
    assert found.groups == {'a': Kept(4, (0, 2))}
    assert found.slices == {
        'a.weight': {0: Kept(4, (0, 2))},
        'b.weight': {1: Kept(3, (1,))},
    }
    assert found.attributes == {'b.groups': Kept(2, (1,))}
    assert (found.unit, found.branches, found.details) == ('channels', {}, {})


def test_branches_details_and_costs():
    layout = Layout(
        'filters',
        [],
        {'a': (torch.tensor([-1, -1]), torch.tensor([0, 1]))},
        {'type': 'grouped', 'norm': True},
        {'a': {'outputs': torch.tensor([1, 2])}},
    )
    costs = {'flops': {'dense': 2.0, 'pruned': 1.0}}
    found = plan(layout, costs)
    branch = found.branches['a']
    assert branch.settings == {'type': 'grouped', 'norm': True}
    assert (branch.inputs, branch.outputs) == (Kept(2, (0, 1)), Kept(2, (0,)))
    assert found.details == {'a': {'outputs': Kept(2, (1,))}}
    assert found.ratios() == {'flops': 0.5}


def test_dimensions_of_a_group_share_what_is_kept():
    """A plan of a large network has few index lists and many places."""
    channels = torch.arange(4)
    names = [f'{name}.weight' for name in 'abc']
    found = plan(
        Layout('channels', [(Site(n, 0, 0, 4), channels) for n in names])
    )
    assert len({id(found.slices[name][0]) for name in names}) == 1
