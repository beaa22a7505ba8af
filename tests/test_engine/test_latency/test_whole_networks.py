# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from itertools import pairwise

import pytest

from mmlapp.engine.latency.measure import measure_table
from mmlapp.engine.latency.whole_networks import STEPS, timed_networks


def test_networks_become_smaller_step_by_step(subject, procedure, pretend):
    """Times are multiply-adds: the layers alone tell those of a network."""
    layers = measure_table(subject, procedure).layers
    found = timed_networks(subject, procedure, layers, {})
    assert len(found) == 1 + len(STEPS)
    dense = found[0]
    assert (dense.layers, dense.elements) == (1, 1)
    for larger, smaller in pairwise(found):
        assert smaller.median < larger.median
        assert smaller.layers < larger.layers
    for network in found:
        assert network.layers == pytest.approx(
            network.median / dense.median, rel=1e-6
        )
