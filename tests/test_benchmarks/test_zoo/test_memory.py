# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path

import pytest
from zoo.memory import peak_memory

SIZE = 64  # MiB


def touch(size):
    """Takes memory, all pages of it, and gives it back."""
    block = bytearray(size << 20)
    block[:: 1 << 12] = b'x' * len(block[:: 1 << 12])


def is_resettable():
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return False
    return True


@pytest.mark.skipif(not is_resettable(), reason='no peak that can be reset')
@pytest.mark.parametrize('before', [0, 4 * SIZE])
def test_the_peak_is_that_of_the_block(before):
    """Also of what is given back inside, and not of what was before."""
    touch(before)
    peaks = []
    # Where memory is short the system takes idle pages meanwhile, which makes
    # it less; it never becomes more than that.
    for _ in range(3):
        with peak_memory() as found:
            touch(SIZE)
        peaks += found
    assert max(peaks) == pytest.approx(SIZE, abs=SIZE / 4)


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
