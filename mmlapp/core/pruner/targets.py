# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the network of a pruner costs, and what it is to cost."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..cost.base import Cost
from ..errors import PruningError
from ..groups import FrozenChannels
from ..methods.budget import Budget, reachable, whole_chunks
from ..methods.min_keep import NearUniform
from ..methods.schedule import Schedule, check_targets
from ..misuse import check_has_values
from ..streams import KEPT
from .floors import Floors, uniform_counts
from .state_dicts import SavedState

NOT_PRUNABLE = (
    'the rest belongs to layers that are not prunable{} or to bypasses'
)
HELD = (
    'the rest belongs to layers that are not prunable{}, to bypasses, or to '
    'what min_keep keeps'
)
NAMED = 3  # reasons in a message


class Targets(SavedState):
    """A pruner's state with the costs of its gate and their targets.

    Takes the arguments of :class:`PrunerState`.
    """

    def cost(self, name: str) -> Cost:
        """Returns one of the costs.

        Args:
            name (str): Its name.
        """
        cost = self.counted[self.costs.index(name)]
        assert isinstance(cost, Cost)
        return cost

    def host_cost(self, name: str) -> Cost:
        """Returns one of the costs for gates on the CPU.

        Who searches asks again and again: it waits for no GPU there.

        Args:
            name (str): Its name.
        """
        cost = self.cost(name)
        if all(b.device.type == 'cpu' for b in cost.buffers()):
            return cost
        if name not in self._host_costs:
            self._host_costs[name] = copy.deepcopy(cost).cpu()
        return self._host_costs[name]

    def ratios(self, costs: Sequence[str] | None = None) -> dict[str, float]:
        """Returns the current fractions of the dense network's costs.

        Args:
            costs (Sequence[str], optional): Which ones. Defaults to None:
                all.
        """
        gate = self.decided.cpu()
        names = self.costs if costs is None else costs
        return {n: float(self.host_cost(n).ratio(gate)) for n in names}

    def targets(self) -> dict[str, float]:
        """Returns where the schedule wants the ratios at this step."""
        return {
            name: Schedule(target, self.progress.steps).at(self.progress.done)
            for name, target in self.progress.target.items()
        }

    def binding_cost(self) -> str:
        """Returns the target that is missed most; of one, that one."""
        targets = self.targets()
        if len(targets) == 1:
            return next(iter(targets))
        ratios = self.ratios(list(targets))
        # The largest ratio over its target.
        return max(targets, key=lambda name: ratios[name] / targets[name])

    def budget(self, target: Mapping[str, float]) -> Budget:
        """Returns what may be spent on each cost.

        Args:
            target (Mapping[str, float]): Fractions of the dense network.
        """
        return Budget(
            [
                # A limit in the unit of the cost: 0.5 of 4e9 is 2e9.
                (cost := self.host_cost(name), value * cost.dense)
                for name, value in target.items()
            ]
        )

    @property
    def floors(self) -> list[int]:
        """Fewest channels that a method keeps, of every group."""
        return self._floors().counts

    @property
    def least(self) -> Tensor:
        """The same where the gate lies, ``[groups]``."""
        return self._floors().on(self.gate.device)

    def _floors(self) -> Floors:
        near, target = self.min_keep, self.progress.target
        if not isinstance(near, NearUniform) or not target:
            return self.fixed_floors
        # They follow from costs and target alone, so that a run that is
        # resumed and all processes have the same.
        if self.last_floors.target != target:
            self.last_floors = Floors(dict(target), self._near(near, target))
        return self.last_floors

    def _near(
        self, near: NearUniform, target: Mapping[str, float]
    ) -> list[int]:
        """Floors of a share of the uniform network at a target."""
        fixed = self.fixed_floors.counts
        # The end keeps multiples of the divisor, of all groups.
        whole = whole_chunks(fixed, self.sizes, self.divisors)
        counts = uniform_counts(self.budget(target), self.host_parts, whole)
        return [
            max(least, near.of_uniform(count, divisor))
            if group.sole_path
            else least
            for group, least, count, divisor in zip(
                self.groups, fixed, counts, self.divisors, strict=True
            )
        ]

    def check_reachable(self, target: Mapping[str, float]) -> None:
        """Raises PruningError if a target lies below what must be kept.

        Args:
            target (Mapping[str, float]): Fractions by name of the cost.
        """
        check_has_values(self.gate)
        for name, value in check_targets(target, self.costs).items():
            cost = self.host_cost(name)
            cost.check_budget()
            # Floors that follow a target are in reach of it.
            floors = self.fixed_floors.counts
            lowest = reachable(
                cost, self.scores, self.group, floors, self.divisors
            )
            # From multiply-adds or elements to a fraction, like the target.
            lowest /= cost.dense
            if value < lowest:
                cause = HELD if self.held else NOT_PRUNABLE
                raise PruningError(
                    f'target {name}={value} lies below the reachable minimum '
                    f'of {lowest:.4f}: {cause.format(self._left_whole())}. '
                    f'{self._remedy()}'
                )

    def _remedy(self) -> str:
        """What would bring the target within reach."""
        streams = any(entry.reason == KEPT for entry in self.frozen)
        others = ['lower min_keep'] * self.held + [
            'leave out keep_streams'
        ] * streams
        return f'{", ".join(["Raise the target", *others])} or widen the scope'

    def _left_whole(self) -> str:
        """Which channels are not prunable and why, those of most first."""
        layers: dict[str, list[FrozenChannels]] = defaultdict(list)
        for entry in self.frozen:
            layers[entry.reason].append(entry)
        # The most channels first; of equally many by name.
        lines = sorted(
            (-sum(e.channels for e in found), reason, found[0].layer)
            for reason, found in layers.items()
        )
        told = [
            f'{-count} channels such as those of {layer}: {reason}'
            for count, reason, layer in lines[:NAMED]
        ]
        return f' ({"; ".join(told)})' if told else ''
