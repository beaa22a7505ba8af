# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The channel plan: what is kept, as one frozen and serialisable object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import PruningError
from ..files import replace_text

VERSION = 2


@dataclass(frozen=True)
class Kept:
    """Indices of one dimension that stay.

    Args:
        size (int): Dense size.
        index (tuple[int, ...]): Kept indices, ascending.

    Raises:
        PruningError: If the indices are no ascending subset of the size.

    Examples:
        >>> Kept(8, (0, 1, 2, 5)).text()
        '0-2,5'
        >>> Kept.parse(8, '0-2,5').index
        (0, 1, 2, 5)
    """

    size: int
    index: tuple[int, ...]

    def __post_init__(self) -> None:
        # 0 2 5 -> (0, 2) (2, 5): neighbours; the last has none.
        pairs = zip(self.index, self.index[1:], strict=False)
        ascending = all(a < b for a, b in pairs)
        inside = not self.index or (
            self.index[0] >= 0 and self.index[-1] < self.size
        )
        if not (ascending and inside):
            raise PruningError(
                f'kept indices {self.text()!r}: expected ascending numbers '
                f'from 0 to {self.size - 1}'
            )

    def mask(self) -> Tensor:
        """Returns the indices as a bool mask, ``[size]``."""
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[list(self.index)] = True
        return mask

    @classmethod
    def from_mask(cls, mask: Tensor) -> Kept:
        """Makes one from a bool mask, ``[size]``."""
        return cls(mask.numel(), tuple(mask.nonzero()[:, 0].tolist()))

    def text(self) -> str:
        """Returns the indices as ranges."""
        return ','.join(
            str(a) if a == b else f'{a}-{b}' for a, b in _runs(self.index)
        )

    @classmethod
    def parse(cls, size: int, text: str) -> Kept:
        """Reads what :meth:`text` wrote.

        Raises:
            PruningError: If the text is malformed.
        """
        index: list[int] = []
        try:
            for run in filter(None, text.split(',')):
                first, dash, last = run.partition('-')
                start, end = int(first), int(last if dash else first)
                if end < start:
                    raise ValueError(run)
                # One index too many is enough for the check below.
                index.extend(range(start, min(end, size) + 1))
        except ValueError as error:
            raise PruningError(
                f'kept indices {text!r}: expected ranges such as 0-15,17'
            ) from error
        return cls(size, tuple(index))


def _runs(index: Sequence[int]) -> Iterator[tuple[int, int]]:
    # 0 1 2 5 7 8 -> (0, 2) (5, 5) (7, 8)
    start = previous = None
    for i in index:
        if previous is not None and i == previous + 1:
            previous = i
            continue
        if start is not None and previous is not None:
            yield start, previous
        start = previous = i
    if start is not None and previous is not None:
        yield start, previous


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


@dataclass(frozen=True)
class ChannelPlan:
    """Which parts of a network are kept.

    Args:
        groups (Mapping[str, Kept]): Kept parts of every group.
        slices (Mapping[str, Mapping[int, Kept]]): Kept indices of every
            parameter and buffer that shrinks, by dimension.
        attributes (Mapping[str, Kept]): Integer attributes that shrink.
        branches (Mapping[str, BranchPlan]): Branch of each layer.
        costs (Mapping[str, Mapping[str, float]]): Every cost by name:
            ``dense``, ``pruned`` and, where one was asked for, the
            ``target`` ratio.
        unit (str): What was removed. Defaults to ``channels``.
        details (Mapping[str, Mapping[str, Kept]]): What the unit noted for
            a layer beside slices.
    """

    groups: Mapping[str, Kept]
    slices: Mapping[str, Mapping[int, Kept]]
    attributes: Mapping[str, Kept] = field(default_factory=dict)
    branches: Mapping[str, BranchPlan] = field(default_factory=dict)
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    unit: str = 'channels'
    details: Mapping[str, Mapping[str, Kept]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, strings, lists and dicts.

        Equal entries are written once, in ``kept``, and stand elsewhere as
        their number in that list: all dimensions of a group share one.
        """
        # A wide network repeats few index lists in thousands of places.
        numbers: dict[Kept, int] = {}

        def number(kept: Kept) -> int:
            # The number it has, or else the next one: 0, 1, 2 ...
            return numbers.setdefault(kept, len(numbers))

        data = {
            'version': VERSION,
            'costs': {name: dict(c) for name, c in self.costs.items()},
            'groups': {k: number(v) for k, v in self.groups.items()},
            'unit': self.unit,
            'branches': {
                name: {
                    'settings': dict(b.settings),
                    'inputs': number(b.inputs),
                    'outputs': number(b.outputs),
                }
                for name, b in self.branches.items()
            },
            'details': {
                name: {key: number(k) for key, k in entry.items()}
                for name, entry in self.details.items()
            },
            'attributes': {k: number(v) for k, v in self.attributes.items()},
            'slices': {
                name: {str(d): number(k) for d, k in dims.items()}
                for name, dims in self.slices.items()
            },
        }
        # Last, when everything above has its number; dicts keep that order.
        data['kept'] = [[kept.size, kept.text()] for kept in numbers]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ChannelPlan:
        """Reads what :meth:`to_dict` wrote.

        Args:
            data (Mapping): The dictionary.

        Raises:
            PruningError: If it is no plan, or of an unknown version.
        """
        if not isinstance(data, Mapping) or 'version' not in data:
            raise PruningError(
                'this is no channel plan: it has no version. Plans are '
                'written by ChannelPlan.save and tools/deploy.py'
            )
        if data['version'] != VERSION:
            raise PruningError(
                f'channel plan of version {data["version"]!r}: this release '
                f'reads version {VERSION}'
            )
        try:
            return cls._from_entries(data)
        except (
            AttributeError,
            IndexError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:
            if isinstance(error, PruningError):
                raise
            raise PruningError(
                f'the channel plan is damaged: {type(error).__name__} at '
                f'{error}'
            ) from error

    @classmethod
    def _from_entries(cls, data: Mapping[str, Any]) -> ChannelPlan:
        table = [Kept.parse(int(n), str(t)) for n, t in data.get('kept', ())]

        def read(entry: int | Sequence[Any]) -> Kept:
            if isinstance(entry, int):
                # A negative one would count from the end of the table.
                if entry < 0:
                    raise IndexError(entry)
                return table[entry]
            # Or the indices themselves, as [size, text].
            size, text = entry
            return Kept.parse(int(size), str(text))

        return cls(
            groups={name: read(e) for name, e in data['groups'].items()},
            slices={
                name: {int(d): read(e) for d, e in dims.items()}
                for name, dims in data['slices'].items()
            },
            attributes={k: read(e) for k, e in data['attributes'].items()},
            branches={
                name: BranchPlan(
                    dict(b['settings']), read(b['inputs']), read(b['outputs'])
                )
                for name, b in data['branches'].items()
            },
            unit=str(data['unit']),
            details={
                name: {key: read(e) for key, e in entry.items()}
                for name, entry in data['details'].items()
            },
            costs={
                name: {key: float(value) for key, value in cost.items()}
                for name, cost in data['costs'].items()
            },
        )

    def to_json(self, indent: int | None = None) -> str:
        """Returns the plan as JSON.

        Args:
            indent (int, optional): Blanks per level. Defaults to None: all
                on one line.
        """
        separators = (',', ':') if indent is None else None
        return json.dumps(self.to_dict(), indent=indent, separators=separators)

    @classmethod
    def from_json(cls, text: str) -> ChannelPlan:
        """Reads what :meth:`to_json` wrote.

        Args:
            text (str): The JSON.

        Raises:
            PruningError: If it is no complete plan.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise PruningError(
                f'the channel plan is no complete JSON ({error}): it may be '
                'truncated; write it again'
            ) from error
        return cls.from_dict(data)

    def without_branches(
        self,
        merged: Mapping[str, str | None],
        pruned: Mapping[str, float],
    ) -> ChannelPlan:
        """Returns the plan of a network whose branches were merged.

        Args:
            merged (Mapping[str, str or None]): What
                :func:`mmlapp.core.merge_bypasses` returned: a reason where
                the branch stays.
            pruned (Mapping[str, float]): Costs afterwards, by name.
        """
        return replace(
            self,
            # A reason: it is still there. None, or no entry: it is gone.
            branches={n: b for n, b in self.branches.items() if merged.get(n)},
            costs={
                name: {**cost, 'pruned': pruned.get(name, cost['pruned'])}
                for name, cost in self.costs.items()
            },
        )

    def ratios(self) -> dict[str, float]:
        """Returns the fraction of each cost that is left, by name."""
        return {
            name: cost['pruned'] / cost['dense']
            for name, cost in self.costs.items()
        }

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON, under a temporary name first.

        Args:
            path (str or Path): The file.
        """
        replace_text(path, self.to_json(indent=1) + '\n')

    @classmethod
    def load(cls, path: str | Path) -> ChannelPlan:
        """Reads a plan and checks it.

        Args:
            path (str or Path): The file.

        Raises:
            PruningError: If the file is no complete plan.
        """
        try:
            return cls.from_json(Path(path).read_text())
        except UnicodeDecodeError as error:
            raise PruningError(
                f'plan={str(path)!r} is no text file: expected the JSON that '
                'ChannelPlan.save writes'
            ) from error
        except PruningError as error:
            raise PruningError(f'plan={str(path)!r}: {error}') from error
