# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from report_runs import HEAD, PHASE

from mmlapp.core import PruningError
from mmlapp.engine.report.records import check_record

STATE, LAST = PHASE[0], PHASE[-1]
OF_PLAN = {
    k: v
    for k, v in LAST.items()
    if k not in ('done', 'steps', 'shown', 'scores')
}


def test_what_runs_write():
    endless = {**HEAD, 'settings': {'score': float('inf')}}
    for entry in (HEAD, endless, *PHASE, OF_PLAN, {'kind': 'end', 'iter': 3}):
        check_record(entry, HEAD)


@pytest.mark.parametrize(
    ('entry', 'text'),
    [
        ({**HEAD, 'settings': [1]}, 'settings'),
        ({**HEAD, 'frozen': 'abc'}, 'frozen'),
        ({**HEAD, 'frozen': [['a', 1]]}, 'frozen'),
        ({**HEAD, 'layers': [1, 2, 3]}, 'layers'),
        ({**HEAD, 'max_iters': 'x'}, 'max_iters'),
        ({**STATE, 'phase': 'other'}, 'one of dense, pruning, finished'),
        ({**STATE, 'ratios': {'flops': 'x'}}, 'ratios'),
        ({**STATE, 'shown': {'threshold': [1.0]}}, '1 entries for 2 groups'),
        ({**STATE, 'scores': [[1.0]] * 2}, 'a list of 7'),
        ({**STATE, 'scores': []}, '0 entries for 2 groups'),
        ({**STATE, 'kept': ['a', 'b']}, 'kept'),
        ({**STATE, 'widths': [1, 2, 3]}, 'widths'),
        ({**STATE, 'iter': -1}, 'iter'),
        ({**OF_PLAN, 'phase': 'pruning'}, 'lacks one of done'),
        ({**OF_PLAN, 'shown': {}}, 'lacks one of done'),
        ({'kind': ['x']}, 'follows no record'),
    ],
)
def test_what_they_do_not(entry, text):
    with pytest.raises(PruningError, match=text):
        check_record(entry, HEAD)
