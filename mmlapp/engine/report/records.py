# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a record of pruning must have, by its kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmlapp.core import PruningError
from mmlapp.core.plan.reading import (
    Reader,
    integer,
    mapping,
    number,
    record,
    refuse,
    sequence,
    text,
)
from mmlapp.core.progress import Phase

from ..training.history import SHARES

PHASES = tuple(phase.name.lower() for phase in Phase)
# What a pruner tells and a plan does not, whose phase is over.
OF_PRUNERS = 'done', 'steps', 'shown', 'scores'


def check_record(entry: Mapping[str, Any], head: Mapping[str, Any]) -> None:
    """Refuses what :class:`RunHistory` did not write.

    Args:
        entry (Mapping): A record of any kind.
        head (Mapping): The one that its run began with, checked before, or
            itself; empty if that is missing.

    Raises:
        PruningError: With what is wrong.
    """
    kind = entry.get('kind')
    if not head or not isinstance(kind, str) or kind not in KINDS:
        raise PruningError('it follows no record of kind run')
    KINDS[kind](entry, kind)
    if kind == 'state':
        _check_state(entry, head)


def _check_state(entry: Mapping[str, Any], head: Mapping[str, Any]) -> None:
    lists = {
        'kept': (entry['kept'], 'groups'),
        'widths': (entry['widths'], 'layers'),
        'scores': (entry.get('scores', head['groups']), 'groups'),
        **{n: (v, 'groups') for n, v in entry.get('shown', {}).items()},
    }
    for name, (found, whole) in lists.items():
        if len(found) != len(head[whole]):
            raise PruningError(
                f'{name} has {len(found)} entries for {len(head[whole])} '
                f'{whole}'
            )
    # All four or none: none is what a narrow network has, whose phase is over
    # and whose pruner is gone.
    told = sum(name in entry for name in OF_PRUNERS)
    if told < len(OF_PRUNERS) and (told or entry['phase'] != PHASES[-1]):
        raise PruningError(f'it lacks one of {", ".join(OF_PRUNERS)}')


def _maybe(read: Reader[Any]) -> Reader[Any]:
    """A value, or None."""
    return lambda value, where: None if value is None else read(value, where)


def _row(*readers: Reader[Any]) -> Reader[list[Any]]:
    """A list with an entry for each reader."""

    def read(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list) or len(value) != len(readers):
            refuse(value, where, f'a list of {len(readers)}')
        pairs = zip(readers, value, strict=True)
        return [read_one(each, where) for read_one, each in pairs]

    return read


def _phase(value: Any, where: str) -> str:
    if value not in PHASES:
        refuse(value, where, f'one of {", ".join(PHASES)}')
    return str(value)


_count = integer(2**63, 'a number of things')
# None is what JSON has no number for.
_value = _maybe(number(-math.inf, 'a number'))
KINDS: Mapping[str, Reader[dict[str, Any]]] = {
    'run': record(
        {
            'kind': text,
            'version': _count,
            'iter': _count,
            'max_iters': _count,
            'unit': text,
            # Whatever a config may hold, infinity too.
            'settings': mapping(lambda value, where: value),
            'groups': sequence(_row(text, _count)),
            'heads': mapping(_count),
            'layers': sequence(_row(text, _maybe(_count), _count)),
            'frozen': sequence(_row(text, _count, text)),
        },
        optional=('settings', 'heads', 'frozen'),
    ),
    'state': record(
        {
            'kind': text,
            'iter': _count,
            'phase': _phase,
            'done': _count,
            'steps': _count,
            'ratios': mapping(_value),
            'targets': mapping(_value),
            'shown': mapping(sequence(_value)),
            'scores': sequence(_row(*[_value] * len(SHARES))),
            'kept': sequence(_count),
            'widths': sequence(_row(_maybe(_count), _count)),
        },
        optional=OF_PRUNERS,
    ),
    'end': record({'kind': text, 'iter': _count}),
}
