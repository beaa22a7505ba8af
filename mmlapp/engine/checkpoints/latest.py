# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""From which checkpoint a run goes on that does not name one."""

from __future__ import annotations

import re
from pathlib import Path

from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

# As CheckpointHook calls what it saves at an interval.
SAVED = re.compile(r'(epoch|iter)_(\d+)\.pth')


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """Returns the latest checkpoint of a work dir; None if it has none.

    MMEngine believes ``last_checkpoint``, which holds a whole path: in a
    folder that was copied or moved, that of the folder before.

    Args:
        work_dir (str or Path): The folder of a run.
    """
    folder = Path(work_dir)
    noted = find_latest_checkpoint(str(folder))
    if noted is None:
        return _newest(folder)
    here = folder / Path(noted).name
    if here.is_file() and here.resolve() != Path(noted).resolve():
        print_log(
            f'--resume: last_checkpoint names {noted}, of the folder that '
            f'{folder} was copied or moved from; its own {here.name} is taken'
        )
        return str(here)
    return noted


def _newest(folder: Path) -> str | None:
    """The one of the highest number, where a note of the last is missing."""
    found = [
        (int(match[2]), path)
        for path in folder.glob('*.pth')
        if (match := SAVED.fullmatch(path.name))
    ]
    return str(max(found)[1]) if found else None
