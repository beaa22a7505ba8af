# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest

from mmlapp.core import PruningError
from mmlapp.engine.latency.subject import Procedure, describe, kinds_of


@pytest.mark.parametrize(
    ('given', 'text'),
    [
        (dict(points=1), 'points=1'),
        (dict(rounds=0), 'rounds=0'),
        (dict(divisor=0), 'divisor=0'),
    ],
)
def test_bad_procedures(given, text):
    with pytest.raises(PruningError, match=text):
        Procedure(**given)


def test_other_widths_are_another_table(subject, procedure):
    """The digest of the layers tells tables apart that look alike."""
    finer = Procedure(points=8, rounds=2, divisor=1, clock=procedure.clock)
    assert describe(subject, procedure) == describe(subject, procedure)
    assert (
        describe(subject, procedure)['layers']
        != (describe(subject, finer)['layers'])
    )
    assert len(kinds_of(subject, finer)) == len(kinds_of(subject, procedure))
