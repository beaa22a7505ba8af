# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Two commands at once, and what becomes of one if the other fails."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'requirements' / 'meanwhile.py'
# A child of a child, which notes itself and would go on for a minute.
SLEEPER = 'sleep 60 & echo $! >{}; wait'


def start(tmp_path, background, foreground):
    command = [sys.executable, SCRIPT, '--log', tmp_path / 'log']
    return subprocess.Popen(
        [*command, background, foreground],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    out, error = process.communicate(timeout=30)
    return process.returncode, out, error


def read_number(path):
    """The number in a file, as soon as it is there."""
    for _ in range(1000):
        if path.exists() and path.read_text().endswith('\n'):
            return int(path.read_text())
        time.sleep(0.01)
    raise AssertionError(path)


def is_gone(number):
    """Whether a process has ended, at once or within some seconds."""
    for _ in range(500):
        try:
            state = Path(f'/proc/{number}/stat').read_text()
        except OSError:
            return True
        if state.rpartition(')')[2].split()[0] == 'Z':
            return True
        time.sleep(0.01)
    return False


def test_both_run_at_once(tmp_path):
    """Each waits for a file of the other."""
    one, two = tmp_path / 'one', tmp_path / 'two'
    wait = 'until [ -e {} ]; do sleep 0.01; done'
    process = start(
        tmp_path,
        f'touch {one}; {wait.format(two)}; nice; echo done',
        f'{wait.format(one)}; touch {two}; nice',
    )
    status, out, _ = end(process)
    assert status == 0
    low, said = (tmp_path / 'log').read_text().split()
    assert said == 'done'
    assert int(low) == min(int(out) + 10, 19)  # gives way


def test_a_background_that_fails_is_told_after_the_foreground(tmp_path):
    process = start(
        tmp_path, 'echo much; echo why >&2; exit 3', 'sleep 0.1; echo result'
    )
    status, out, error = end(process)
    assert status == 3
    assert out == 'result\n'
    assert 'why\n' in error
    assert 'much' not in error
    assert str(tmp_path / 'log') in error


def test_a_foreground_that_fails_stops_the_background(tmp_path):
    note = tmp_path / 'sleeper'
    process = start(
        tmp_path,
        SLEEPER.format(note),
        f'until [ -s {note} ]; do sleep 0.01; done; exit 4',
    )
    assert end(process)[0] == 4
    assert is_gone(read_number(note))


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_nothing_runs_on_when_it_is_stopped(tmp_path, number):
    note, other = tmp_path / 'sleeper', tmp_path / 'other'
    foreground = f'echo $$ >{other}; exec sleep 60'
    process = start(tmp_path, SLEEPER.format(note), foreground)
    read_number(other)
    sleeper = read_number(note)
    os.kill(process.pid, number)
    assert end(process)[0] == 128 + number
    assert is_gone(sleeper)
