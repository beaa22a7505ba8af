# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from report_runs import benchmark

from mmlapp.engine.benchmark.report import COLUMNS
from mmlapp.engine.report import latency
from mmlapp.engine.report.latency import read_benchmark, read_benchmarks


def test_a_benchmark_is_told_as_by_its_tool(tmp_path):
    benchmark(tmp_path / 'speed.json')
    (found,) = read_benchmarks(tmp_path)
    assert found.file == 'speed.json'
    assert found.notes == ['random <weights>']
    assert found.settings == [
        'torch on <CPU>, threads: 2, images at once: 1, torch 2.10.0'
    ]
    names = [name for name, _ in found.rows]
    assert names == ['torch, dense', 'torch, slim']
    dense, slim = (
        dict(zip(COLUMNS, cells, strict=True)) for _, cells in found.rows
    )
    assert (dense['ms'], dense['speed-up']) == ('14', '1.00')
    assert (slim['left'], slim['factor']) == ('40.0%', 'too noisy')


@pytest.mark.parametrize(
    'text',
    [
        '',
        '{"rows": 1',
        '[]',
        '3',
        '{}',
        '{"settings": [], "notes": [], "rows": [{"name": "a"}]}',
        '[' * 100_000,
    ],
)
def test_what_is_no_benchmark_is_passed_over(tmp_path, text):
    (tmp_path / 'a.json').write_text(text)
    benchmark(tmp_path / 'b.json')
    assert [b.file for b in read_benchmarks(tmp_path)] == ['b.json']


@pytest.mark.parametrize(
    'changed',
    [dict(rows=[3]), dict(settings=[{}]), dict(notes=None), dict(rows=None)],
)
def test_a_damaged_one_is_none(tmp_path, changed):
    benchmark(tmp_path / 'a.json', **changed)
    assert read_benchmark(tmp_path / 'a.json') is None


def test_numbers_that_are_none_are_refused(tmp_path):
    benchmark(tmp_path / 'a.json')
    data = json.loads((tmp_path / 'a.json').read_text())
    data['rows'][0]['median'] = 'x'
    benchmark(tmp_path / 'a.json', rows=data['rows'])
    assert read_benchmark(tmp_path / 'a.json') is None


def test_large_files_are_not_read(tmp_path, monkeypatch):
    benchmark(tmp_path / 'a.json')
    monkeypatch.setattr(latency, 'LARGEST', 10)
    assert read_benchmarks(tmp_path) == []
