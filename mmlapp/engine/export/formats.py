# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which format a file is of, and what writes it."""

from __future__ import annotations

from pathlib import Path

from mmlapp.core import PruningError
from mmlapp.core.arguments import choose_from

from . import onnx_file, torch_export, torchscript  # noqa: F401, registered
from .base import EXPORTERS, Exporter, check_packages


def format_of(path: Path) -> str:
    """Returns the format that the suffix of a file tells.

    Args:
        path (Path): The file.

    Raises:
        PruningError: If it tells none, with the nearest one.
    """
    # At each call, since users register formats of their own.
    known = {EXPORTERS[name].suffix: name for name in EXPORTERS}
    if path.suffix not in known:
        raise PruningError(
            f'{str(path)!r} is of an unknown type; '
            f'{choose_from(known, path.suffix)}'
        )
    return known[path.suffix]


def find_exporter(name: str) -> Exporter:
    """Returns what writes a format.

    Args:
        name (str): Its name.

    Raises:
        PruningError: If there is none of this name, with the nearest one, or
            if it needs packages that are missing.
    """
    exporter = EXPORTERS[name]()
    check_packages(name, exporter.needs)
    return exporter
