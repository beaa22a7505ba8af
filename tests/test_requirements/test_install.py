# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The set-up, with an interpreter that only says what it was asked for."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Stands for a virtual environment's Python. Files beside it say what works.
PYTHON = r"""#!/usr/bin/env bash
state=$(dirname "$0")/..
printf '%s|%s\n' "$*" "${CFLAGS:-}" >>"$state/calls"
case "$*" in
*'pip --version') ;;
*'pip install'*'--target'*) ;;
*'pip install'*'wheels/onedl_mmcv'*) touch "$state/installed" ;;
*'pip install'*)
    if [[ -e $state/error ]]; then cat "$state/error" >&2; exit 1; fi ;;
*'pip wheel'*)
    if [[ "${CFLAGS:-}" == *broken* ]]; then exit 1; fi
    echo '  [1/2] c++'; echo '[2/2] c++'
    mkdir -p "$state/wheels.new"
    touch "$state/wheels.new/onedl_mmcv-2.3.6-cp311.whl" ;;
*precompile.py*) cat "$state/flags" 2>/dev/null ;;
'-W ignore - cpu')
    if [[ -n ${PYTHONPATH:-} ]]; then
        n=$(cat "$state/useless" 2>/dev/null || echo 0)
        echo $((n - 1)) >"$state/useless"
        ((n <= 0))
    else
        [[ -e $state/installed ]]
    fi ;;
'-W ignore - cuda') exit 1 ;;
*cuda.is_available*) exit 1 ;;
*sysconfig*) echo "-I$state/include" ;;
esac
"""


@dataclass
class SetUp:
    """An environment in a folder, and what its Python was asked for."""

    venv: Path

    def run(self, step='all', **environment):
        command = ['bash', 'requirements/install.sh', self.venv, 'k', step]
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, 'WHEELS': '', 'PYTHONPATH': '', **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def asked(self, text):
        calls = self.venv / 'calls'
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [line for line in lines if text in line]

    def notes(self):
        return {path.name for path in self.venv.glob('.*-k')}


@pytest.fixture
def setup(tmp_path):
    """An environment whose compiler finds what it needs."""
    python = tmp_path / 'venv' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / 'venv' / 'include').mkdir()
    (tmp_path / 'venv' / 'include' / 'Python.h').touch()
    return SetUp(tmp_path / 'venv')


def one_line(result):
    """The error of a set-up that failed, which is a line of its own."""
    assert result.returncode == 1
    (line,) = [
        line for line in result.stderr.splitlines() if 'make env:' in line
    ]
    return line


def test_classifiers_need_neither_compiler_nor_operators(setup):
    result = setup.run('classifiers', CXX='no-such-compiler')
    assert result.returncode == 0, result.stderr
    assert 'WARNING: only classifiers will work' in result.stdout
    assert 'no-such-compiler' in result.stdout
    assert setup.notes() == {'.classifiers-k'}
    assert not setup.asked('pip wheel')


def test_mmcv_without_operators_stays_out_of_the_cache_of_pip(setup):
    setup.run('classifiers')
    (call,) = setup.asked(' onedl-mmcv|')
    assert '--no-cache-dir' in call
    assert '--no-build-isolation' not in call  # torch would be seen


def test_operators_are_built_without_touching_the_environment(setup):
    setup.run('classifiers')
    before = setup.asked('pip install')
    assert setup.run('operators').returncode == 0
    added = setup.asked('pip install')[len(before) :]
    assert all('--target' in call for call in added)  # the trial alone
    assert [w.name for w in (setup.venv / 'wheels').iterdir()] == [
        'onedl_mmcv-2.3.6-cp311.whl'
    ]
    assert setup.notes() == {'.classifiers-k'}


def test_all_goes_on_after_the_halves(setup):
    setup.run('classifiers')
    setup.run('operators')
    torch, wheels = setup.asked('torchvision'), setup.asked('pip wheel')
    result = setup.run()
    assert result.returncode == 0, result.stderr
    assert setup.notes() == {'.classifiers-k', '.ready-k'}
    assert setup.asked('torchvision') == torch  # once
    assert setup.asked('pip wheel') == wheels
    assert len(setup.asked('wheels/onedl_mmcv')) == 1
    calls = setup.asked('')
    assert setup.run().returncode == 0
    assert setup.asked('') == calls  # nothing is left to do


def test_a_ready_wheel_needs_no_compiler(setup, tmp_path):
    (tmp_path / 'onedl_mmcv-2.3.6-cp311.whl').touch()
    (setup.venv / 'installed').touch()  # what pip makes of that wheel
    result = setup.run(WHEELS=str(tmp_path), CXX='no-such-compiler')
    assert result.returncode == 0, result.stderr
    (call,) = setup.asked(' onedl-mmcv|')
    assert f'--find-links {tmp_path}' in call
    assert not setup.asked('pip wheel')


def test_a_useless_wheel_is_built_anew(setup):
    """From pip's cache, for another torch."""
    (setup.venv / 'useless').write_text('1')
    assert setup.run().returncode == 0
    first, second = setup.asked('pip wheel')
    assert '--no-cache-dir' not in first
    assert '--no-cache-dir' in second
    assert '--no-binary onedl-mmcv' in second


def test_operators_that_never_work_are_told(setup):
    (setup.venv / 'useless').write_text('9')
    assert 'do not work' in one_line(setup.run())
    assert '.ready-k' not in setup.notes()
    assert not (setup.venv / 'wheels').exists()


def test_the_sources_are_compiled_with_the_precompiled_header(setup):
    (setup.venv / 'flags').write_text('-include header.hpp')
    setup.run(CFLAGS='-O1')
    (asked,) = setup.asked('precompile.py')
    (built,) = setup.asked('pip wheel')
    assert asked.endswith('|-O2 -DNDEBUG -g0 -O1')
    assert built.endswith('|-include header.hpp -O2 -DNDEBUG -g0 -O1')
    assert not setup.asked(str(setup.venv / 'headers'))


def test_a_build_that_fails_is_tried_without_it(setup):
    (setup.venv / 'flags').write_text('-include broken.hpp')
    result = setup.run()
    assert result.returncode == 0, result.stderr
    assert 'Once more, without precompiled headers' in result.stdout
    assert [call.partition('|')[2] for call in setup.asked('pip wheel')] == [
        '-include broken.hpp -O2 -DNDEBUG -g0 ',
        '-O2 -DNDEBUG -g0 ',
    ]


def test_a_build_that_fails_names_its_log(setup):
    line = one_line(setup.run(CFLAGS='broken'))
    assert 'onedl-mmcv could not be built' in line
    assert str(setup.venv / 'mmcv.log') in line


@pytest.mark.parametrize('step', ['all', 'operators'])
def test_without_a_compiler_nothing_is_fetched(setup, step):
    line = one_line(setup.run(step, CXX='no-such-compiler'))
    assert 'no-such-compiler' in line
    assert 'apt-get install g++ python3-dev' in line
    assert not setup.asked('pip install')


def test_missing_headers_of_python_are_named(setup):
    (setup.venv / 'include' / 'Python.h').unlink()
    assert 'Python.h' in one_line(setup.run())


OFFLINE = """\
WARNING: Retrying (Retry(total=0)) after connection broken by \
'NewConnectionError(': Failed to establish a new connection')': /simple/torch/
ERROR: Could not find a version that satisfies the requirement torch
ERROR: No matching distribution found for torch==2.10.0
"""


@pytest.mark.parametrize(
    ('said', 'told'),
    [
        (OFFLINE, 'Is there a network?'),
        ('ERROR: No matching distribution found for a', 'distribution for a'),
        ('OSError: [Errno 28] No space left on device', 'No space left'),
    ],
)
def test_what_pip_cannot_install_is_told_in_a_line(setup, said, told):
    (setup.venv / 'error').write_text(said)
    line = one_line(setup.run())
    assert told.split()[-1] in line
    assert str(setup.venv / 'pip.log') in line
    assert not setup.notes()


def test_another_python_is_refused(tmp_path):
    line = one_line(SetUp(tmp_path / 'new').run(PYTHON='false'))
    assert 'false is not a Python 3.10-3.12' in line
    assert 'make env PYTHON=' in line


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').touch()
    line = one_line(SetUp(tmp_path).run())
    assert f'MMLAPP_VENV={tmp_path}' in line
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_an_unknown_step_is_named(setup):
    assert 'STEP=everything: expected' in one_line(setup.run('everything'))
