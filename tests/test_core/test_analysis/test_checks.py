# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from mmlapp.core.analysis.checks import (
    Check,
    checks_of,
    compares_modes,
    has_loss,
)
from mmlapp.core.analysis.counts import Count
from mmlapp.core.analysis.ways import Way

EXAMPLE = Way(list, 'the example')
LOSS = Way(list, 'loss', train=True, compare=False)
PREDICT = Way(list, 'predict', compare=False)


def test_a_network_without_a_loss_is_tried_in_training_mode_twice():
    assert list(checks_of([EXAMPLE])) == [
        Check(Count.SOME),
        Check(Count.ONE),
        Check(Count.ALONE),
        Check(Count.SOME, train=True),
        Check(Count.ALONE, train=True),
    ]
    assert not has_loss([EXAMPLE, PREDICT])


def test_ways_that_only_run_follow_those_that_are_compared():
    """With a loss, training mode of the example has to run only once."""
    assert list(checks_of([EXAMPLE, LOSS, PREDICT])) == [
        Check(Count.SOME),
        Check(Count.ONE),
        Check(Count.ALONE),
        Check(Count.SOME, way=1),
        Check(Count.SOME, way=2),
        Check(Count.ALONE, way=1),
        Check(Count.ALONE, way=2),
        Check(Count.SOME, train=True),
    ]
    assert has_loss([EXAMPLE, LOSS])


def test_one_check_compares_both_modes():
    checks = checks_of([EXAMPLE, PREDICT])
    assert list(filter(compares_modes, checks)) == [
        Check(Count.SOME, train=True)
    ]
