# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a piece of code, on Linux."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Yields a list that will hold the peak, above the start, in MiB."""
    found = [math.nan]
    try:
        # 5 resets the peak of this process.
        Path('/proc/self/clear_refs').write_text('5')
        before = _resident_peak()
    except OSError:
        yield found
        return
    yield found
    found[0] = _resident_peak() - before


def _resident_peak() -> float:
    status = Path('/proc/self/status').read_text()
    line = next(x for x in status.splitlines() if x.startswith('VmHWM'))
    return int(line.split()[1]) / 1024
