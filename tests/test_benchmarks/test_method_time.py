# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is timed of each method, and the page that tells it."""

import json
import re
from pathlib import Path

import method_time
from method_time import MEMBERS, line, measure

ROOT = Path(__file__).parents[2]
RESULT = ROOT / 'benchmarks' / 'results' / 'method_time.json'


def test_all_numbers_are_measured(monkeypatch):
    """By a clock that counts its calls: every step takes one of them."""
    calls = iter(range(10_000))
    monkeypatch.setattr(method_time, 'processor', lambda device: next(calls))
    names = 'uniform', 'admm', 'functionality'
    members = {name: {**MEMBERS[name]} for name in names}
    members['functionality']['score'] = dict(type='functionality', batches=1)
    found = measure(members, 2, (2, 3, 32, 32))
    for row in found.values():
        assert row['step_low'] == row['step'] == row['step_high'] == 1
    assert [row['calibration'] is None for row in found.values()] == [
        True,
        True,
        False,
    ]
    assert 'calibration' in line('functionality', found['functionality'])
    assert line('admm', found['admm']) == 'admm: 1.00 (1.00 to 1.00)'


def test_the_page_has_the_numbers_of_the_result():
    """Of every member that was timed."""
    result = json.loads(RESULT.read_text())
    assert result.keys() == MEMBERS.keys()
    page = (ROOT / 'docs' / 'methods.md').read_text()
    page = page.split('## What each needs')[1].split('\n## ')[0]
    rows = dict(re.findall(r'^\| `([a-z0-9-]+)` \| ([^|]+) \|', page, re.M))
    for name, row in result.items():
        text = f'{row["step"]:.2f}'
        if row['calibration'] is not None:
            text += f', once {row["calibration"]:.0f}'
        assert rows[name].strip() == text, name
