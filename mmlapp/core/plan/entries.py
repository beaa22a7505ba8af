# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The entries of a channel plan in a file, checked one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PruningError
from .kept import LARGEST, Kept
from .reading import (
    Reader,
    T,
    digest,
    integer,
    mapping,
    number,
    plain,
    record,
    refuse,
    sequence,
    text,
)

SIZE = integer(LARGEST, 'the size of a dimension')
# Names as an entry has them: '0', '1', '10', but not '01' or '-1'.
DIM = re.compile(r'0|[1-9][0-9]?')
COST = {
    'dense': number(0, 'a finite number above 0'),
    # A whole network may vanish, but for its branches.
    'pruned': number(-1e-9, 'a finite number, not negative'),
    'target': number(0, 'a fraction in (0, 1]', 1),
}


@dataclass(frozen=True)
class BranchPlan:
    """The branch beside one layer.

    Args:
        settings (Mapping[str, Any]): What it is built from: ``type`` and
            settings, as a config says them.
        inputs (Kept): Living input channels.
        outputs (Kept): Living output channels.
    """

    settings: Mapping[str, Any]
    inputs: Kept
    outputs: Kept


def read_entries(data: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the entries of a plan.

    Args:
        data (Mapping): What a file held.

    Returns:
        dict[str, Any]: Arguments of :class:`ChannelPlan`.

    Raises:
        PruningError: If an entry is missing, unknown, of another kind, does
            not agree with another one, or was changed after it was written.
    """
    entries = _reader(data)(data, 'plan')
    _check_slices(entries['slices'], entries['tensors'])
    _check_heads(entries.get('heads', {}), entries['groups'])
    # Last: an error says what is wrong where that can be told, and not just
    # that something was changed.
    _check_digest(data)
    # 'shapes' of the file is the list of sizes, of the plan the size of each
    # tensor.
    entries['shapes'] = entries.pop('tensors')
    entries['branches'] = {
        name: BranchPlan(**entry)
        for name, entry in entries['branches'].items()
    }
    for name in ('version', 'digest', 'kept'):
        del entries[name]
    return entries


def _reader(data: Mapping[str, Any]) -> Reader[dict[str, Any]]:
    """Returns a reader of all entries, which are numbers of two lists."""
    # The lists first: memory in proportion to the text, for an entry that is
    # named a thousand times is one object.
    lists = record(LISTS)(
        {k: v for k, v in data.items() if k in LISTS}, 'plan'
    )
    kept = _member(lists['kept'], 'kept')
    branch = record({'settings': _settings, 'inputs': kept, 'outputs': kept})
    return record(
        {
            # Checked before, by ChannelPlan.from_dict.
            'version': plain,
            'digest': text,
            'kept': _skip,
            'shapes': _skip,
            'tensors': mapping(_member(lists['shapes'], 'shapes')),
            'groups': mapping(kept),
            'slices': mapping(mapping(kept, _dim)),
            'attributes': mapping(kept),
            'branches': mapping(branch),
            'unit': text,
            'details': mapping(mapping(kept)),
            'biases': sequence(text),
            'heads': mapping(SIZE),
            'kinds': mapping(text),
            'costs': mapping(record(COST, optional=['target'])),
        },
        optional=['heads', 'kinds'],
    )


def _skip(value: Any, where: str) -> None:
    """Was read before."""


def _kept(value: Any, where: str) -> Kept:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        refuse(value, where, 'a size and ranges, such as [16, "0-7"]')
    size = SIZE(value[0], f'{where}[0]')
    try:
        return Kept.parse(size, text(value[1], f'{where}[1]'))
    except PruningError as error:
        raise PruningError(f'{where}: {error}') from error


LISTS = {'kept': sequence(_kept), 'shapes': sequence(sequence(SIZE))}


def _member(table: Sequence[T], name: str) -> Reader[T]:
    """Returns a reader of numbers of a list."""

    def read(value: Any, where: str) -> T:
        if type(value) is not int or not 0 <= value < len(table):
            refuse(
                value,
                where,
                f'a number of the list {name!r}, which has {len(table)}',
            )
        return table[value]

    return read


def _dim(value: Any, where: str) -> int:
    if not isinstance(value, str) or not DIM.fullmatch(value):
        refuse(value, where, 'the number of a dimension, such as "0"')
    return int(value)


def _settings(value: Any, where: str) -> dict[str, Any]:
    found = mapping(plain)(value, where)
    text(found.get('type'), f"{where}['type']")
    return found


def _check_slices(
    slices: Mapping[str, Mapping[int, Kept]],
    shapes: Mapping[str, Sequence[int]],
) -> None:
    """Every slice is as large as its dimension.

    Buffers that no state dict has have no shape here.
    """
    for name, dims in slices.items():
        shape = shapes.get(name)
        for dim, kept in dims.items():
            if shape is None:
                continue
            if dim >= len(shape) or shape[dim] != kept.size:
                raise PruningError(
                    f'slices[{name!r:.80}] keeps some of {kept.size} in '
                    f'dimension {dim}, '
                    f'but the tensor has shape {list(shape)}'
                )


def _check_heads(heads: Mapping[str, int], groups: Mapping[str, Kept]) -> None:
    """Heads are those of groups."""
    for name in heads:
        if name not in groups:
            raise PruningError(
                f'heads[{name!r:.80}] is the width of the heads of a group '
                'that the plan does not have'
            )


def _check_digest(data: Mapping[str, Any]) -> None:
    """Finds what is well formed, but not as it was written."""
    content = plain({k: v for k, v in data.items() if k != 'digest'}, 'plan')
    if digest(content) != data['digest']:
        raise PruningError(
            'its digest is that of other entries, so it was changed after '
            'it was written. Write it again with ChannelPlan.save'
        )
