# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from mmlapp.core.files import replace_file


def test_an_interrupt_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    path.write_text('old')

    def interrupted(temporary: Path) -> None:
        temporary.write_text('ne')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, interrupted)
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]
    replace_file(path, lambda temporary: temporary.write_text('new') and None)
    assert path.read_text() == 'new'
