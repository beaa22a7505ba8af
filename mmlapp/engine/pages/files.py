# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where a page is written, and what is written beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmlapp.core import PruningError
from mmlapp.core.files import replace_text

from ..output_files import behind_links, try_folder, writing


def check_out(path: str | Path, example: str) -> None:
    """Refuses a page that cannot be written, before anything is computed.

    Args:
        path (str or Path): Of the page; its folder is made.
        example (str): A name that it could have.

    Raises:
        PruningError: With the path.
    """
    path = Path(path)
    said = f'out={str(path)!r}'
    if path.suffix != '.html':
        raise PruningError(
            f'{said}: expected the name of a page, such as {example}'
        )
    if path.is_dir():
        raise PruningError(f'{said} is a folder: name a file in it')
    with writing('out', path):
        folder = behind_links(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        try_folder(folder)


def write_page(
    path: str | Path, page: str, beside: Mapping[str, str] | None = None
) -> list[Path]:
    """Writes a page, and other files of its name; each as a whole.

    Args:
        path (str or Path): Of the page, ``.html``.
        page (str): Its text.
        beside (Mapping[str, str], optional): Text of other files by their
            suffix, such as ``.json``. Defaults to None.

    Returns:
        list[Path]: All of them, the page first.

    Raises:
        PruningError: If they cannot be written.
    """
    path = Path(path)
    texts = {
        path: page,
        **{
            path.with_suffix(end): text for end, text in (beside or {}).items()
        },
    }
    with writing('out', path):
        # The page last: where it is, the others are.
        for place, text in reversed(texts.items()):
            replace_text(place, text)
    return list(texts)
