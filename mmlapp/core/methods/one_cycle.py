# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Ranked to the target at once, gone bit by bit (OCSPruner, 2501.13439)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import PruningError
from ..numbers import check_number
from .base import register_method
from .ranking import Ranking, refuse_negative

if TYPE_CHECKING:
    from ..pruner import Pruner


@register_method('one_cycle')
class OneCycle(Ranking):
    """After OCSPruner (arXiv 2501.13439), with gates in the place of weights.

    Every ``interval`` steps all channels are ranked and condemned down to
    the target of the phase. A condemned channel shrinks, with
    ``shrink='growing'`` unless something else is said, and stays in the
    ranking with what is left of it; one that is kept again is whole. With
    ``end='stable'`` the phase is over when rankings agree and what they
    condemned is gone.

    Args:
        interval (int, optional): Steps of the optimizer between two
            rankings. Defaults to None: the epoch of a stable end, or else
            one.
        cost (str, optional): As in :class:`Ranking`. Defaults to
            ``softmax``, the paper's.

    Raises:
        PruningError: If an argument lies outside its range.
    """

    shrink = 'growing'
    ramp = 0.0

    def __init__(
        self, interval: int | None = None, cost: str | None = 'softmax'
    ) -> None:
        super().__init__(cost=cost)
        if interval is not None:
            name = 'method one_cycle interval'
            check_number(name, interval, least=1, whole=True)
        self.interval = interval

    def check(self, steps: int) -> None:
        """Refuses a phase that is over before it is ranked."""
        if self.interval is not None and self.interval > steps:
            raise PruningError(
                f'method one_cycle interval={self.interval}: a phase of '
                f'{steps} steps ends before channels are ranked. Make the '
                'phase longer, or interval smaller'
            )

    def is_due(self, pruner: Pruner) -> bool:
        """Whether channels are ranked after this step.

        Args:
            pruner (Pruner): Of the network.
        """
        interval = self.interval
        if interval is None and pruner.stability is not None:
            interval = pruner.stability.end.epoch
        return pruner.progress.done % (interval or 1) == 0

    def wanted(self, pruner: Pruner) -> dict[str, float]:
        """Returns the target of the phase, from its beginning.

        Args:
            pruner (Pruner): Of the network.
        """
        return dict(pruner.progress.target)

    def rank(self, pruner: Pruner) -> Tensor:
        """Returns the importance of what is left of every channel.

        Args:
            pruner (Pruner): Of the network.
        """
        # Half a filter has half its norm: what shrinks falls in the ranking.
        refuse_negative('method one_cycle', pruner.scores)
        return super().rank(pruner) * pruner.gate.detach()
