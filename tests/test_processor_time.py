# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import re
import subprocess
import sys
from types import SimpleNamespace

from processor_time import ProcessorTime

# As a process of its own.
BURN = 'import time\nwhile time.process_time() < 0.1: pass'


def run_test(times, nodeid, command):
    """As pytest does, around a test that starts a process."""
    hook = times.pytest_runtest_protocol(SimpleNamespace(nodeid=nodeid))
    next(hook)
    subprocess.run([sys.executable, '-S', '-c', command], check=True)
    try:
        hook.send(True)
    except StopIteration as end:
        return end.value
    raise AssertionError('the hook goes on')


def test_files_are_billed_for_what_their_tests_start():
    times = ProcessorTime()
    assert run_test(times, 'a.py::test_it[1]', BURN) is True
    run_test(times, 'a.py::test_it[2]', BURN)
    run_test(times, 'b.py::test_it', '')
    assert times.files['a.py'] > 0.15
    assert times.files['b.py'] < 0.15
    total, dearest = times.report(1)
    assert re.match(r'\d+ processor seconds, 0 before', total)
    assert dearest.endswith('  a.py')
    assert len(list(times.report(0))) == 1
