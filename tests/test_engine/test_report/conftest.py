# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Runs that ended, were resumed, or knew nothing of pruning."""

import pytest
from report_runs import HEAD, PHASE, start, state, training, validation


@pytest.fixture
def work_dir(tmp_path):
    folder = tmp_path / 'work <dir>'
    folder.mkdir()
    return folder


@pytest.fixture
def pruned(work_dir):
    """A run of 40 iterations, pruned in the first 20."""
    rows = [
        *training(1, 10), validation(1, 40.0),
        *training(11, 20), validation(2, 60.0),
        {'pruning/flops_ratio': 0.6, 'step': 20},
        *training(21, 40), validation(4, 55.0),
    ]  # fmt: skip
    end = {'kind': 'end', 'iter': 40}
    start(work_dir, '20260101_000000', rows, [HEAD, *PHASE, end])
    return work_dir


@pytest.fixture
def resumed(work_dir):
    """One that was killed at iteration 17 and went on from 10."""
    start(
        work_dir,
        '20260101_000000',
        [*training(1, 10), validation(1, 40.0), *training(11, 17)],
        [HEAD, *PHASE[:2], state(15, (2, 2))],
        tail='{"kind": "sta',
    )
    start(
        work_dir,
        '20260102_000000',
        [*training(11, 20), validation(2, 60.0)],
        [{**HEAD, 'iter': 10}, *PHASE[1:]],
    )
    return work_dir


@pytest.fixture
def dense(work_dir):
    """A run without any of our hooks."""
    rows = [*training(1, 10), validation(1, 40.0)]
    start(work_dir, '20260101_000000', rows)
    return work_dir
