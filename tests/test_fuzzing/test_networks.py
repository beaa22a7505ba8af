# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Networks at random: masked, narrowed, counted, trained, written down."""

import pytest
from fuzzing.faults import fuzz, smallest

pytestmark = pytest.mark.filterwarnings('ignore')
# Networks of one test, so that a failing one says which stretch it was.
EACH = 10
# Blocks that were added later are drawn from these seeds on.
LATER = 3000, 3000 + EACH, 4000, 5000, 5600, 6000
# Of the first blocks; a hundred networks with those of later ones.
FIRST = range(0, 6 * EACH, EACH)


def look_at(seeds, most):
    found = [fault for seed in seeds if (fault := fuzz(seed, most))]
    # What `python -m fuzzing SEED` prints, too.
    assert not found, '\n\n'.join(str(smallest(fault)) for fault in found)


@pytest.mark.parametrize('first', [*FIRST, *LATER])
def test_networks_at_random(first):
    look_at(range(first, first + EACH), most=2)


@pytest.mark.slow
@pytest.mark.parametrize('first', range(6 * EACH, 6400, 4 * EACH))
def test_many_networks_at_random(first):
    look_at(range(first, first + 4 * EACH), most=6)
