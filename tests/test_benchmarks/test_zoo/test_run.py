# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

from zoo import Entry, run_all
from zoo.measure import Measurement
from zoo.run import run_one


def test_a_process_of_its_own_has_a_limit(entry):
    assert run_one(entry, 0.0)['failed'] == 'no result within 0 s'


def test_results_are_kept_and_not_measured_again(tmp_path, entry):
    out = tmp_path / 'zoo.json'
    known = Measurement('known', flops=42).to_dict()
    failed = Measurement('small', failed='the last time').to_dict()
    out.write_text(json.dumps([known, failed]))
    told = []
    rows = run_all(
        [Entry('known.py'), entry],
        out,
        progress=lambda name, number: told.append((name, number)),
    )
    assert told == [('known', 0), ('small', 1)]
    assert rows[0] == known
    assert rows[1]['failed'] is None
    assert json.loads(out.read_text()) == rows
