# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The channel plan: what is kept, as one frozen and serialisable object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import PruningError
from ..files import replace_text
from .entries import BranchPlan, read_entries
from .kept import Kept
from .reading import digest, parse_json, plain, shown
from .writing import write_entries

VERSION = 4


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
        shapes (Mapping[str, tuple[int, ...]]): Dense shape of every
            parameter and buffer that a state dict of the network without
            branches has: the plan fits no other network.
        biases (Sequence[str]): Layers that get a bias which the dense ones
            do not have, from the norms of merged branches.
        heads (Mapping[str, int]): Width of the heads of attention that a
            group consists of, by its name; groups of channels have none.
        kinds (Mapping[str, str]): What each layer of the dense network is,
            see :func:`layer_kinds`: the plan fits no network with others.

    Examples:
        >>> half = Kept(4, (0, 1))
        >>> plan = ChannelPlan(
        ...     groups={'conv1': half},
        ...     slices={'conv1.weight': {0: half}},
        ...     shapes={'conv1.weight': (4, 3, 3, 3)},
        ... )
        >>> ChannelPlan.from_json(plan.to_json()) == plan
        True
    """

    groups: Mapping[str, Kept]
    slices: Mapping[str, Mapping[int, Kept]]
    attributes: Mapping[str, Kept] = field(default_factory=dict)
    branches: Mapping[str, BranchPlan] = field(default_factory=dict)
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    unit: str = 'channels'
    details: Mapping[str, Mapping[str, Kept]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    biases: Sequence[str] = ()
    heads: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, strings, lists and dicts.

        Equal entries are written once, in ``kept`` or ``shapes``, and stand
        elsewhere as their number in that list: all dimensions of a group
        share one. ``digest`` is the fingerprint of everything else.
        """
        # As it is read again: without tuples and kinds of dictionaries.
        data = plain({'version': VERSION, **write_entries(self)}, 'plan')
        return {**data, 'digest': digest(data)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ChannelPlan:
        """Reads what :meth:`to_dict` wrote.

        Args:
            data (Mapping): The dictionary.

        Raises:
            PruningError: If it is no plan, of an unknown version, damaged,
                or changed after it was written.
        """
        if not isinstance(data, Mapping) or 'version' not in data:
            raise PruningError(
                'this is no channel plan: it has no version. Plans are '
                'written by ChannelPlan.save and tools/deploy.py'
            )
        # Before the entries, which another version has not.
        version = data['version']
        if type(version) is not int or version != VERSION:
            raise PruningError(
                f'channel plan of version {shown(version)}: this release '
                f'reads version {VERSION}. Use the release that wrote it, or '
                'deploy the checkpoint again'
            )
        try:
            return cls(**read_entries(data))
        except RecursionError:
            raise PruningError(
                'the channel plan is damaged: it is nested too deeply; '
                'write it again'
            ) from None
        except PruningError as error:
            raise PruningError(
                f'the channel plan is damaged: {error}'
            ) from error

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
            PruningError: If it is no text, or no complete plan.
        """
        if not isinstance(text, str):
            raise PruningError(
                f'text={type(text).__name__}: expected the JSON of a plan, as '
                'to_json() writes it; ChannelPlan.load(path) reads a file'
            )
        return cls.from_dict(parse_json(text))

    def without_branches(
        self,
        merged: Mapping[str, str | None],
        pruned: Mapping[str, float],
        biases: Sequence[str] = (),
    ) -> ChannelPlan:
        """Returns the plan of a network whose branches were merged.

        Args:
            merged (Mapping[str, str or None]): What
                :func:`mmlapp.core.merge_bypasses` returned: a reason where
                the branch stays.
            pruned (Mapping[str, float]): Costs afterwards, by name.
            biases (Sequence[str]): Layers that got a bias by it. Defaults
                to none.
        """
        return replace(
            self,
            # A reason: it is still there. None, or no entry: it is gone.
            branches={n: b for n, b in self.branches.items() if merged.get(n)},
            biases=tuple(biases),
            costs={
                name: {**cost, 'pruned': pruned.get(name, cost['pruned'])}
                for name, cost in self.costs.items()
            },
        )

    def below(self, prefix: str) -> ChannelPlan:
        """Returns the plan of a part of the network, such as its backbone.

        Args:
            prefix (str): Name of the part, with or without a dot behind.

        Returns:
            ChannelPlan: With the names inside the part, and without costs,
            which are those of the whole network.

        Raises:
            PruningError: If the plan knows no such part.
        """
        start = f'{prefix.rstrip(".")}.'

        def own(entries: Mapping[str, Any]) -> Any:
            return {
                name.removeprefix(start): entry
                for name, entry in entries.items()
                if name.startswith(start)
            }

        names = 'groups', 'heads', 'slices', 'attributes', 'branches'
        part: dict[str, Any] = {
            name: own(getattr(self, name))
            for name in (*names, 'details', 'shapes', 'kinds')
        }
        if not part['shapes']:
            parts = sorted({name.partition('.')[0] for name in self.shapes})
            raise PruningError(
                f'prefix={prefix!r}: the plan has no such part; those of its '
                f'network are {", ".join(parts)}'
            )
        # The keys of a dictionary are as good as any.
        biases = tuple(own(dict.fromkeys(self.biases)))
        return replace(self, costs={}, biases=biases, **part)

    def same_shape(self, other: ChannelPlan) -> bool:
        """Whether both narrow a network to the same one, whatever it costs.

        Args:
            other (ChannelPlan): The other plan.
        """
        # Groups are told for the reader: what is sliced says it all. Kinds are
        # those of the network that both fit.
        told = 'costs', 'groups', 'heads', 'kinds'
        mine: dict[str, Any] = {name: getattr(self, name) for name in told}
        return self == replace(other, **mine)

    def ratios(self) -> dict[str, float]:
        """Returns the fraction of each cost that is left, by name."""
        return {
            name: cost['pruned'] / cost['dense']
            for name, cost in self.costs.items()
        }

    def targets(self) -> dict[str, float]:
        """Returns the ratio that was asked for, of each cost that had one."""
        return {
            name: cost['target']
            for name, cost in self.costs.items()
            if 'target' in cost
        }

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON, under a temporary name first.

        Args:
            path (str or Path): The file.
        """
        # Interrupted, it leaves the plan that was there before.
        replace_text(path, self.to_json(indent=1) + '\n')

    @classmethod
    def load(cls, path: str | Path) -> ChannelPlan:
        """Reads a plan and checks it.

        Args:
            path (str or Path): The file.

        Raises:
            PruningError: If the file is no complete plan.
        """
        # Not a folder, nor a device that never ends.
        if not Path(path).is_file():
            raise PruningError(
                f'plan={str(path)!r}: there is no such file. Give the path of '
                'a plan that tools/deploy.py wrote'
            )
        try:
            return cls.from_json(Path(path).read_text('utf-8-sig'))
        except UnicodeDecodeError as error:
            raise PruningError(
                f'plan={str(path)!r} is no text file: expected the JSON that '
                'ChannelPlan.save writes'
            ) from error
        except OSError as error:
            raise PruningError(
                f'plan={str(path)!r} cannot be read ({error.strerror})'
            ) from error
        except PruningError as error:
            raise PruningError(f'plan={str(path)!r}: {error}') from error


def as_plans(
    plans: ChannelPlan | Sequence[ChannelPlan],
) -> Sequence[ChannelPlan]:
    """Returns plans that were given as one or several.

    Args:
        plans (ChannelPlan or Sequence[ChannelPlan]): The plans, in order.

    Raises:
        PruningError: If it is neither.
    """
    if isinstance(plans, ChannelPlan):
        return [plans]
    given: Any = plans
    if isinstance(given, (list, tuple)) and all(
        isinstance(plan, ChannelPlan) for plan in given
    ):
        return given
    found = given if isinstance(given, str) else type(given).__name__
    raise PruningError(
        f'plans={found!r}: expected a ChannelPlan, or a list of them, as '
        'pruner.plan() makes it and ChannelPlan.load(path) reads it'
    )
