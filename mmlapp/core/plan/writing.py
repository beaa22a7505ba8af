# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The entries of a channel plan as they are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .entries import BranchPlan
from .kept import Kept

if TYPE_CHECKING:
    from .plan import ChannelPlan

T = TypeVar('T')


class Numbered(Generic[T]):
    """Entries that are written once, and elsewhere as their number.

    A wide network repeats few index lists in thousands of places.

    Examples:
        >>> words = Numbered()
        >>> words.by_name({'a': 'one', 'b': 'two', 'c': 'one'})
        {'a': 0, 'b': 1, 'c': 0}
        >>> list(words)
        ['one', 'two']
    """

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}

    def number(self, entry: T) -> int:
        """Returns the number of an entry; a new one gets the next.

        Args:
            entry (Hashable): The entry.
        """
        return self._numbers.setdefault(entry, len(self._numbers))

    def by_name(self, entries: Mapping[str, T]) -> dict[str, int]:
        """Returns the numbers of several entries.

        Args:
            entries (Mapping): Each by its name.
        """
        return {name: self.number(entry) for name, entry in entries.items()}

    def __iter__(self) -> Iterator[T]:
        # By number: dictionaries keep the order in which keys came.
        return iter(self._numbers)


def write_entries(plan: ChannelPlan) -> dict[str, Any]:
    """Returns all entries of a plan but for its version and its digest.

    Args:
        plan (ChannelPlan): The plan.

    Returns:
        dict[str, Any]: What :func:`read_entries` reads.
    """
    kept, shapes = Numbered[Kept](), Numbered[tuple[int, ...]]()
    entries = {
        # Numbers as they are read again, so that the text is the same.
        'costs': {
            name: {key: float(value) for key, value in cost.items()}
            for name, cost in plan.costs.items()
        },
        'groups': kept.by_name(plan.groups),
        'unit': plan.unit,
        'branches': {
            name: _branch(branch, kept)
            for name, branch in plan.branches.items()
        },
        'details': {
            name: kept.by_name(parts) for name, parts in plan.details.items()
        },
        'attributes': kept.by_name(plan.attributes),
        # JSON has no names but texts.
        'slices': {
            name: kept.by_name({str(dim): k for dim, k in dims.items()})
            for name, dims in plan.slices.items()
        },
        'biases': list(plan.biases),
        'heads': dict(plan.heads),
        'kinds': dict(plan.kinds),
        'tensors': shapes.by_name(
            {name: tuple(shape) for name, shape in plan.shapes.items()}
        ),
    }
    # Last, when everything above has its number.
    return {
        **entries,
        'kept': [[each.size, each.text()] for each in kept],
        'shapes': [list(shape) for shape in shapes],
    }


def _branch(branch: BranchPlan, kept: Numbered[Kept]) -> dict[str, Any]:
    return {
        'settings': dict(branch.settings),
        'inputs': kept.number(branch.inputs),
        'outputs': kept.number(branch.outputs),
    }
