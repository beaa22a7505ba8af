# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The files of a study: a page, and JSON beside it."""

from __future__ import annotations

from pathlib import Path

from mmlapp.core.files import json_text

from ..pages.files import check_out, write_page
from .page import page_of
from .study import Study

EXAMPLE = 'criteria.html; the JSON is written beside it'


def write_study(study: Study, path: str | Path) -> list[Path]:
    """Writes a study as a page, and as JSON beside it.

    Each is there as a whole or not at all.

    Args:
        study (Study): What was found.
        path (str or Path): Of the page, ``.html``.

    Returns:
        list[Path]: The page and the JSON.

    Raises:
        PruningError: If they cannot be written.
    """
    check_out(path, EXAMPLE)
    # Both are made before one of them is written.
    data = json_text(study.to_dict(), 1) + '\n'
    return write_page(path, page_of(study), {'.json': data})
