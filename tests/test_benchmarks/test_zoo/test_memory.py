# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math
import mmap
from pathlib import Path

import pytest
from zoo.memory import peak_memory

SIZE = 64  # MiB


def touch(size):
    """Takes memory, all pages of it, and gives it back."""
    # From the system: the allocator may hold as much that was freed before, of
    # which the process is no larger.
    with mmap.mmap(-1, size << 20) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1


def is_resettable():
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return False
    return True


@pytest.mark.skipif(not is_resettable(), reason='no peak that can be reset')
@pytest.mark.parametrize('before', [1, 4 * SIZE])
def test_the_peak_is_that_of_the_block(before):
    """Also of what is given back inside, and not of what was before."""
    touch(before)
    with peak_memory() as found:
        touch(SIZE)
    assert found == [pytest.approx(SIZE, abs=SIZE / 4)]


@pytest.mark.skipif(not is_resettable(), reason='no peak that can be reset')
def test_nothing_takes_nothing():
    with peak_memory() as found:
        assert math.isnan(found[0])
    assert 0 <= found[0] < 1


def test_a_peak_that_cannot_be_reset_is_no_number(monkeypatch):
    def refuse(self, text):
        raise PermissionError(self)

    monkeypatch.setattr(Path, 'write_text', refuse)
    with peak_memory() as found:
        touch(1)
    assert math.isnan(found[0])
    assert len(found) == 1


def test_an_error_inside_goes_on():
    with pytest.raises(ZeroDivisionError), peak_memory():
        _ = 1 / 0
