# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is run, in which order, and not again."""

import json
import time

import pytest
from accuracy import jobs
from accuracy.command import main, parse_args
from accuracy.jobs import Store, given, ready, run_all
from accuracy.rows import TABLES, Row, lapp
from accuracy.training import Recipe

RECIPE = Recipe(epochs=1, batch=16)


@pytest.fixture
def table(monkeypatch):
    """A table of small networks, in this process."""
    rows = {
        'scratch': Row(prune='before', widths_of='lapp', depth=8),
        'dense': Row(depth=8),
        'lapp': lapp(depth=8, phase=0.5),
    }
    monkeypatch.setitem(TABLES, 'small', rows)

    class Here:
        _processes = None

        def __init__(self, *args, **kwargs):
            pass

        def submit(self, function, *args, **kwargs):
            future = jobs.Future()
            try:
                future.set_result(function(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)
            return future

        def shutdown(self, **kwargs):
            pass

    monkeypatch.setattr(jobs, 'ProcessPoolExecutor', Here)
    return 'small'


def run_table(table, noise, out, **options):
    return run_all(
        table, list(TABLES[table]), [0], RECIPE, noise, Store(out, RECIPE),
        noise, **options,
    )  # fmt: skip


def test_a_row_waits_for_the_widths_of_another(table, tmp_path):
    store = Store(tmp_path / 'a.json', RECIPE)
    jobs_of_both = [('scratch', 0), ('lapp', 0), ('scratch', 1)]
    assert ready(table, jobs_of_both, store) == [('lapp', 0)]
    store.add({'row': 'lapp', 'seed': 0, 'widths': {'a': 3}})
    assert ready(table, jobs_of_both, store) == [('scratch', 0), ('lapp', 0)]
    assert given(table, 'scratch', 0, store, tmp_path) == {'widths': {'a': 3}}


def test_teachers_leave_their_weights():
    assert TABLES['headline']['curvature-distilled'].teacher == 'dense'


def test_all_rows_run_once(table, noise, capsys, monkeypatch):
    out = noise / 'out.json'
    assert run_table(table, noise, out)
    found = json.loads(out.read_text())
    assert [r['row'] for r in found['results']] == ['dense', 'lapp', 'scratch']
    widths = {r['row']: r['flops'] for r in found['results']}
    assert widths['scratch'] == pytest.approx(widths['lapp'])
    monkeypatch.setattr(jobs, 'run', None)
    assert run_table(table, noise, out)
    assert 'dense 0' in capsys.readouterr().out


def test_a_row_goes_on_with_another_and_pays_for_both(
    table, noise, monkeypatch
):
    monkeypatch.setattr('accuracy.network.DEPTH', 8)
    taught = {'teacher': 'dense', 'depth': 8}
    rows = {
        'dense': Row(depth=8),
        'lapp': lapp(phase=0.5, target=0.5, lesson='mixup', **taught),
        'refined': Row(start='lapp', lesson='refined', **taught),
    }
    monkeypatch.setitem(TABLES, table, rows)
    out = noise / 'out.json'
    recipe = Recipe(epochs=3, batch=16, rate=1e-3)
    store = Store(out, recipe)
    assert run_all(table, list(rows), [0], recipe, noise, store, noise)
    _, pruned, refined = store.results
    assert (pruned['epochs'], refined['epochs']) == (3, 6)
    assert refined['flops'] == pruned['flops'] <= 0.5
    # Narrow for three epochs; the teacher is asked in the first of them.
    more = refined['cost'] - pruned['cost']
    assert more == pytest.approx(refined['flops'] + 1 / 3 / 3)


def test_a_failure_is_told_and_what_waits_for_it_is_not_run(
    table, noise, capsys
):
    TABLES[table]['lapp'] = lapp(depth=8, target=1e-9)
    out = noise / 'out.json'
    assert not run_table(table, noise, out)
    found = json.loads(out.read_text())['results']
    assert [r['row'] for r in found] == ['dense']
    assert 'lapp 0' in capsys.readouterr().out


def test_nothing_is_done_after_the_deadline(table, noise, monkeypatch):
    monkeypatch.setattr(jobs, 'wait', lambda *_: (set(), set()))
    out = noise / 'out.json'
    assert not run_table(table, noise, out, deadline=time.monotonic())
    assert not out.exists()


def test_results_of_another_recipe_are_not_mixed(tmp_path):
    Store(tmp_path / 'a.json', RECIPE).add({'row': 'dense', 'seed': 0})
    with pytest.raises(ValueError, match=r'epochs.*give another --out'):
        Store(tmp_path / 'a.json', Recipe(epochs=2))


def test_the_command_reports_what_is_there(tmp_path, capsys):
    out = tmp_path / 'a.json'
    result = {
        'accuracy': 90.0, 'flops': 1.0, 'parameters': 1000, 'epochs': 1,
        'cost': 1.0,
    }  # fmt: skip
    Store(out, RECIPE).add({'row': 'dense', 'seed': 0, **result})
    picture = tmp_path / 'images' / 'a.png'
    with pytest.raises(SystemExit) as error:
        main(['headline', '--out', str(out), '--plot', str(picture)])
    assert error.value.code == 0
    assert '90.00' in capsys.readouterr().out
    assert picture.stat().st_size > 1000


def test_unknown_rows_are_refused(capsys):
    with pytest.raises(SystemExit):
        parse_args(['headline', '--rows', 'dense', 'dence'])
    error = capsys.readouterr().err
    assert 'dence' in error
    assert 'lapp-scratch' in error
