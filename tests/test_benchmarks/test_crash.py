# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The script that kills runs, with a few kills."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'crash.py'


@pytest.mark.slow
def test_a_killed_run_ends_as_an_unbroken_one() -> None:
    result = subprocess.run(
        [sys.executable, str(SCRIPT), '--kills', '3'],
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert '3 of 3 killed and resumed' in result.stdout
    assert 'averages and moments equal' in result.stdout
