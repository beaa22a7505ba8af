# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the network of a pruner costs, and what it is to cost."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence

from ..cost.base import Cost
from ..errors import PruningError
from ..groups import FrozenChannels
from ..methods.budget import Budget, reachable
from ..methods.schedule import Schedule, check_targets
from ..streams import KEPT
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

    def check_reachable(self, target: Mapping[str, float]) -> None:
        """Raises PruningError if a target lies below what must be kept.

        Args:
            target (Mapping[str, float]): Fractions by name of the cost.
        """
        if self.gate.is_meta:
            raise PruningError(
                'the network is on the device meta, where nothing has '
                'values: move it with to_empty and load its weights before '
                'it is pruned'
            )
        for name, value in check_targets(target, self.costs).items():
            cost = self.host_cost(name)
            lowest = reachable(
                cost, self.scores, self.group, self.floors, self.divisors
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
