# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json
import math

import pytest
from report_runs import HEAD, PHASE, start, training

from mmlapp.core import PruningError
from mmlapp.engine.report.files import numbers, read_parts


def test_records_of_training_validation_and_pruning_are_told_apart(pruned):
    (part,) = read_parts(pruned)
    assert [row['iter'] for row in part.training] == list(range(5, 41, 5))
    # Where each validation stands among them.
    assert [(i, row['step']) for i, row in part.validation] == [
        (10, 1),
        (20, 2),
        (40, 4),
    ]
    assert [r['kind'] for r in part.records] == ['run', *['state'] * 3, 'end']
    assert (part.broken, part.begin) == (0, 0)


def test_a_line_that_was_not_written_to_its_end_is_counted(resumed):
    first, second = read_parts(resumed)
    # One in each of its two files.
    assert (first.broken, second.broken) == (2, 0)
    assert (first.begin, second.begin) == (0, 10)


def test_without_our_records_a_part_begins_before_its_first(work_dir):
    start(work_dir, '1', training(11, 20))
    assert read_parts(work_dir)[0].begin == 14


RESUMED = 'INFO - resumed epoch: 0, iter: 50'
TRAINS = 'INFO - Iter(train) [100/400]  lr: 1.0000e-01  loss: 1.0000'


@pytest.mark.parametrize(
    ('log', 'begin'),
    [
        ([TRAINS], 0),
        (['INFO - Epoch(train) [1][100/150]  lr: 1.0'], 0),
        # What the config says of it is in the log, too.
        (["INFO - Config:\nresume = True\nload_from = 'a.pth'", TRAINS], 0),
        ([RESUMED, TRAINS], 50),
        (['INFO - Load checkpoint from a.pth', RESUMED], 50),
        # Another process began within the same second.
        ([TRAINS, RESUMED], 0),
        # No messages but warnings, so that nothing is known.
        (['WARNING - Iter(train) was slow'], 99),
    ],
)
def test_the_log_says_where_a_part_begins(work_dir, log, begin):
    rows = [{'loss': 1.0, 'iter': 100, 'step': 100}]
    start(work_dir, '1', rows, log=log)
    assert read_parts(work_dir)[0].begin == begin


@pytest.mark.parametrize(
    ('begin', 'rows'),
    [
        # Every fifth, every tenth; the last of an epoch as well.
        (0, training(1, 20)),
        (0, training(1, 40, every=10, epoch=25)),
        (0, [training(1, 10, every=10)[0], *training(12, 24, every=12)]),
        # Stopped before the second record.
        (0, training(1, 5)),
        # By iterations, where all is epoch 1 or none is noted.
        (0, training(1, 300, every=100, epoch=1000)),
        (299, training(201, 400, every=100, epoch=1000)),
        # Resumed after an epoch as long as the interval, or shorter.
        (19, training(11, 40, every=10)),
        (19, training(11, 20, every=10)),
        (29, [{'iter': i, 'step': i} for i in (30, 40, 50)]),
        (29, [{'iter': 30, 'step': 30}]),
    ],
)
def test_without_log_a_part_that_is_fresh_is_known(work_dir, begin, rows):
    start(work_dir, '1', rows)
    assert read_parts(work_dir)[0].begin == begin


@pytest.mark.parametrize(
    ('make', 'text'),
    [
        (lambda path: None, 'there is no such folder'),
        (lambda path: path.write_text(''), 'it is a file'),
        (lambda path: path.mkdir(), 'no run has logged anything there'),
        (lambda path: (path / 'a').mkdir(parents=True), 'no run has logged'),
    ],
)
def test_what_is_no_run(tmp_path, make, text):
    make(tmp_path / 'a')
    with pytest.raises(PruningError, match=rf"work_dir='.*a': {text}"):
        read_parts(tmp_path / 'a')


@pytest.mark.parametrize(
    ('records', 'text'),
    [
        ([{**HEAD, 'version': 2}], 'of version 2: this release reads'),
        ([PHASE[0]], "damaged: a record of kind 'state' is .* out of place"),
        ([{**HEAD, 'groups': 3}], "damaged: a record of kind 'run'"),
        ([HEAD, {'kind': 'state', 'iter': 1}], "kind 'state' is incomplete"),
        ([HEAD, {'kind': 'other', 'iter': 1}], "kind 'other'"),
        ([HEAD, {'kind': 'end', 'iter': 'x'}], "kind 'end'"),
        ([HEAD, {**PHASE[0], 'kept': [1]}], "kind 'state'"),
        ([HEAD, {**PHASE[0], 'widths': [[3, 8]]}], "kind 'state'"),
        ([HEAD, {**PHASE[0], 'ratios': 3}], "kind 'state'"),
    ],
)
def test_records_that_nobody_wrote_are_refused(work_dir, records, text):
    start(work_dir, '1', records=records)
    with pytest.raises(PruningError, match=rf'pruning\.jsonl is .*{text}'):
        read_parts(work_dir)


def test_what_was_measured_are_numbers():
    row = json.loads(
        '{"loss": 1, "a": NaN, "b": Infinity, "c": "x", "d": true, "e": null,'
        ' "f": 1' + 400 * '0' + ', "g": -1e308,'
        ' "time": 1, "data_time": 1, "iter": 1, "epoch": 1, "step": 1}'
    )
    found = dict(numbers(row))
    assert found.pop('loss') == 1
    assert list(found) == ['a', 'b', 'f', 'g']
    assert all(math.isnan(value) for value in found.values())


def test_rows_of_other_tools_are_counted_as_broken(work_dir):
    rows = [
        *training(1, 5),
        {'loss': 1.0, 'iter': 'x', 'step': 3},
        {'accuracy': 1.0, 'step': 'x'},
        {'accuracy': 1.0},
        {'accuracy': 1.0, 'step': 10**400},
        {'loss': 1.0, 'iter': 10**400, 'step': 3},
        {'loss': 1.0, 'iter': -1, 'step': 3},
    ]
    start(work_dir, '1', rows)
    (part,) = read_parts(work_dir)
    assert (len(part.training), part.validation, part.broken) == (1, [], 6)


def test_a_run_that_is_started_twice_within_a_second(work_dir):
    start(work_dir, '1', records=[HEAD, PHASE[0], HEAD, *PHASE])
    (part,) = read_parts(work_dir)
    assert len(part.records) == 6


def test_runs_that_began_within_a_second_are_read_one_by_one(work_dir):
    start(work_dir, '1', records=[HEAD, *PHASE])
    other = {**HEAD, 'groups': HEAD['groups'][:1]}
    states = [{'kind': 'end', 'iter': 0}]
    text = '\n'.join(map(json.dumps, [other, *states]))
    (work_dir / '1' / 'pruning_2.jsonl').write_text(text)
    (part,) = read_parts(work_dir)
    assert part.records == [HEAD, *PHASE, other, *states]
    (work_dir / '1' / 'pruning.jsonl').unlink()
    (part,) = read_parts(work_dir)
    assert part.records == [other, *states]
