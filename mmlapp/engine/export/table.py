# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The statuses of an export as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from .command import Status

COLUMNS = 'format', 'status', 'file', 'MB', 'error', 'at most', 's'


def statuses_table(statuses: Sequence[Status]) -> Table:
    """Returns the table of an export.

    Args:
        statuses (Sequence[Status]): One for each format.
    """
    table = Table()
    for name in COLUMNS:
        justify = 'left' if name in COLUMNS[:3] else 'right'
        table.add_column(name, justify=justify, overflow='fold')  # type: ignore[arg-type]
    for status in statuses:
        made = status.made
        if made is None:
            table.add_row(status.name, 'failed')
            continue
        table.add_row(
            status.name,
            'passed',
            str(made.path),
            f'{made.size / 1e6:.2f}',
            f'{made.error:.1e}',
            f'{made.tolerance:g}',
            f'{made.seconds:.1f}',
        )
    return table
