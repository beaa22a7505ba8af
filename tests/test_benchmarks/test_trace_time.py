# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The analysis is timed beside what is there to compare it with."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
import trace_time
from torch import nn
from trace_time import activations, compare, in_tree, jobs_of, line, main

MODEL = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
IMAGE = torch.rand(1, 3, 5, 5)


def test_activations_are_counted_in_bytes():
    assert activations(MODEL, IMAGE) == 4 * 25 * (4 + 4 + 2)


def test_without_other_tools_ours_is_timed(monkeypatch):
    monkeypatch.setattr(trace_time, 'find_spec', lambda name: None)
    jobs = jobs_of(MODEL, IMAGE)
    assert list(jobs) == ['labels', 'analysis']
    assert jobs['analysis']().flops == 25 * (3 * 4 + 4 * 2)
    row = {'labels': 1.0, 'analysis': 2.0, 'memory_ratio': 0.5}
    assert line('small', row) == (
        'small: labels 1.00 s, whole analysis 2.00 s; memory 0.50 times the '
        'activations'
    )


def test_torch_pruning_is_timed_where_it_is_installed(monkeypatch):
    class Graph:
        def build_dependency(self, *args):
            return args

    other = SimpleNamespace(DependencyGraph=Graph)
    monkeypatch.setitem(sys.modules, 'torch_pruning', other)
    monkeypatch.setattr(trace_time, 'find_spec', lambda name: True)
    assert jobs_of(MODEL, IMAGE)['torch_pruning']() == (MODEL, IMAGE)
    row = {'labels': 1, 'analysis': 2, 'torch_pruning': 3, 'memory_ratio': 4}
    assert ', Torch-Pruning 3.00 s; memory' in line('small', row)


BUSY = """
import time

def analyse(model, example):
    time.sleep(0.3)
    started = time.process_time()
    while time.process_time() < started + 0.05:
        pass
"""


def test_processor_time_of_another_tree(tmp_path):
    """Not ours, and not the time that it waits."""
    (tmp_path / 'mmlapp').mkdir()
    (tmp_path / 'mmlapp' / 'core.py').write_text(BUSY)
    found = in_tree(tmp_path, ['squeezenet1_1'])
    assert list(found) == ['squeezenet1_1']
    assert found['squeezenet1_1'] == pytest.approx(0.05, abs=0.03)


@pytest.fixture
def reference(tmp_path, monkeypatch):
    """A tree whose analysis takes one second; ours takes 4, 1 and 2."""
    (tmp_path / 'mmlapp' / 'core').mkdir(parents=True)
    ours = iter([4.0, 1.0, 2.0])
    asked = []

    def fixed(tree, networks):
        asked.append(tree)
        seconds = 1.0 if tree == tmp_path else next(ours)
        return dict.fromkeys(networks, seconds)

    monkeypatch.setattr(trace_time, 'in_tree', fixed)
    return SimpleNamespace(path=tmp_path, asked=asked)


def test_trees_take_turns(reference):
    rows = compare(reference.path, ['a', 'b'], 3)
    ours, other = trace_time.ROOT, reference.path
    assert reference.asked == [other, ours, ours, other, other, ours]
    expected = {
        'ours': 2.0,
        'ours_least': 1.0,
        'reference': 1.0,
        'reference_least': 1.0,
        'ratio': 2.0,
        'least_ratio': 1.0,
    }
    assert rows == {'a': expected, 'b': expected}


def test_the_comparison_is_printed_and_kept(reference, tmp_path, capsys):
    out = tmp_path / 'out.json'
    path = str(reference.path)
    words = ['--networks', 'a', '--repeats', '3', '--json', str(out)]
    main(['--reference', path, *words])
    assert capsys.readouterr().out == (
        'a: 2.00 s, reference 1.00 s, ratio 2.00 of medians, 1.00 of least '
        'times\n'
    )
    assert json.loads(out.read_text())['a']['ratio'] == 2.0


@pytest.mark.parametrize(
    ('words', 'match'),
    [
        (['--repeats', '0'], '--repeats 0: expected at least 1'),
        (['--reference', 'nowhere'], 'nowhere: there is no mmlapp/core'),
    ],
)
def test_settings_that_make_no_sense(words, match, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert match in capsys.readouterr().err
