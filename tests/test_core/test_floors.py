# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How many channels groups keep so that enough indices are left."""

from itertools import product

import torch

from mmlapp.core.floors import least_counts

SIZES = {0: 6, 1: 3}
# Nodes 0 to 5 and 6 to 8 are the groups', 9 and 10 stay; 11: another group,
# which is frozen.
OWNER = torch.tensor([0] * 6 + [1] * 3 + [-1] * 2 + [2])
FIRST, SECOND, STAYS = list(range(6)), [6, 7, 8], [-1, 9, 11]
DIMENSIONS = [
    FIRST,
    FIRST * 2,
    FIRST + SECOND,
    FIRST + SECOND * 2 + STAYS,
    SECOND + STAYS,
]


def left(ids, counts):
    """Indices of a dimension whose group keeps its first channels."""
    starts = {0: 0, 1: 6}
    return sum(
        index not in FIRST + SECOND
        or index - starts[group := int(index > 5)] < counts[group]
        for index in ids
    )


def test_all_with_these_floors_leave_enough_and_fewer_of_one_do_not():
    """Tried with every number of channels of both groups."""
    every = list(product(range(1, 7), range(1, 4)))
    for ids in DIMENSIONS:
        for least in range(1, len(ids) + 1):
            found = least_counts(torch.tensor(ids), least, OWNER, SIZES)
            floors = {0: 1, 1: 1, **found}
            above = [
                counts
                for counts in every
                if counts[0] >= floors[0] and counts[1] >= floors[1]
            ]
            assert above
            assert all(left(ids, counts) >= least for counts in above)
            # One channel less of all is too little: no floor is for nothing.
            if found:
                fewer = [floors[g] - (g in found) for g in SIZES]
                assert left(ids, fewer) < least


def test_a_part_of_a_group_tells_nothing():
    found = least_counts(torch.tensor(FIRST[:4]), 3, OWNER, SIZES)
    assert found == {}
