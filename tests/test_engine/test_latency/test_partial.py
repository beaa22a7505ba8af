# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A table whose measurement was stopped."""

import json

import pytest

from mmlapp.core import PruningError
from mmlapp.engine.latency.measure import measure_table
from mmlapp.engine.latency.setting import Setting
from mmlapp.engine.latency.subject import Procedure


def test_it_goes_on_where_it_stopped(subject, procedure, pretend, tmp_path):
    path = tmp_path / 'table.json.partial'
    seen = []

    def stop(done, total, name):
        seen.append((done, total, name))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_table(subject, procedure, path, stop)
    assert seen == [(0, 5, '0'), (1, 5, '3'), (2, 5, '5')]
    assert set(pretend) == {'0', '3'}
    pretend.clear()
    table = measure_table(subject, procedure, path)
    assert set(pretend) == {'5', '8'}
    path.unlink()
    again = measure_table(subject, procedure, path)
    for one, other in zip(table.layers, again.layers, strict=True):
        assert one.names == other.names
        assert one.median == pytest.approx(other.median)


def begun(subject, procedure, path):
    def stop(done, total, name):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_table(subject, procedure, path, stop)


def test_a_partial_file_of_something_else(
    subject, procedure, pretend, tmp_path
):
    path = tmp_path / 'table.json.partial'
    begun(subject, procedure, path)
    other = Procedure(Setting(threads=2), 4, 2, 2, procedure.clock)
    with pytest.raises(PruningError, match=r'threads 1, not 2.*remove'):
        measure_table(subject, other, path)
    finer = Procedure(Setting(), 8, 2, 1, procedure.clock)
    with pytest.raises(PruningError, match=r'layers '):
        measure_table(subject, finer, path)


@pytest.mark.parametrize('content', ['', '{', '[]', '{"setting": {}}'])
def test_a_damaged_partial_file(
    subject, procedure, pretend, tmp_path, content
):
    path = tmp_path / 'table.json.partial'
    path.write_text(content)
    with pytest.raises(PruningError, match=r'partial'):
        measure_table(subject, procedure, path)
    assert not pretend


def test_damaged_times_are_measured_again(
    subject, procedure, pretend, tmp_path
):
    path = tmp_path / 'table.json.partial'
    begun(subject, procedure, path)
    data = json.loads(path.read_text())
    (key,) = data['times']
    data['times'][key].pop()
    path.write_text(json.dumps(data))
    pretend.clear()
    measure_table(subject, procedure, path)
    assert '0' in pretend


TIMES = [
    [],
    {'a': 5},
    *({'a': [pair]} for pair in (['x', 1], [-1, 1], [1, True], [1, '1'])),
    *({'a': [pair]} for pair in ([1e308, 1e308], [1], [1, 1, 1])),
]


@pytest.mark.parametrize('times', TIMES)
def test_times_that_are_none(subject, procedure, pretend, tmp_path, times):
    path = tmp_path / 'table.json.partial'
    begun(subject, procedure, path)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, 'times': times}))
    pretend.clear()
    with pytest.raises(PruningError, match=r'partial.*remove it'):
        measure_table(subject, procedure, path)
    assert not pretend
