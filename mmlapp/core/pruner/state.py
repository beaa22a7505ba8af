# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a pruner holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..cost.base import Cost
from ..groups import FrozenChannels
from ..mask.masked import AppliedMask, Place
from ..methods.base import Method
from ..methods.budget import divisors_of, whole_chunks
from ..methods.min_keep import NONE, LeastShare, least_channels
from ..misuse import BranchWatch, StepWatch, check_has_values
from ..plan.layout import Layout
from ..progress import Phase, Progress
from ..score import Scorer
from ..score.group_scores import GroupInfo
from ..score.harm import Harm
from ..segments import Segments, segments
from .floors import Floors
from .shrinking import Shrink, shrinking
from .stability import Stability
from .stand_in import StandIn

if TYPE_CHECKING:
    from .pruner import Pruner


class PrunerState(nn.Module):
    """Gate, scores, costs and progress of a pruner, and no more.

    The gate, scores and whatever a method keeps are buffers, not parameters:
    no optimizer, weight decay, gradient clipping or DDP reducer touches
    them. Arguments are those of :class:`Pruner`.
    """

    gate: Tensor
    scores: Tensor
    group: Tensor
    method: Method

    def __init__(
        self,
        groups: Sequence[GroupInfo],
        layout: Layout,
        costs: Mapping[str, Cost],
        method: Method,
        scorer: Scorer,
        divisor: int = 1,
        least: LeastShare = NONE,
        shrink: Shrink | None = None,
        protect: float = 0,
    ) -> None:
        super().__init__()
        self.groups, self.layout = list(groups), layout
        self.scorer, self.divisor = scorer, divisor
        self.shrink = method.shrink if shrink is None else shrink
        self.shrinking, self.protect = shrinking(self.shrink), protect
        self.divisors = divisors_of(divisor, (g.block for g in self.groups))
        self._set_up_floors(least)
        self._set_up_costs(costs)
        self._set_up_phase()
        self._set_up_masks()
        self._set_up_origin()
        self._set_up_buffers()
        self._set_up_signals()
        self.method = method
        # Last: a method makes its buffers from all of the above.
        method.setup(self._whole)

    def _set_up_floors(self, least: LeastShare) -> None:
        self.min_keep = least
        asked = [
            least_channels(least, g.size, g.floor, g.sole_path)
            for g in self.groups
        ]
        # Whether `min_keep` holds more than the network needs.
        self.held = asked != [g.floor for g in self.groups]
        # Fewest channels that a method keeps, of every group. The end keeps
        # multiples of the divisor. What nothing goes around does so in the
        # phase, too: what came back at the end would not be trained.
        whole = whole_chunks(asked, self.sizes, self.divisors)
        fixed = [
            multiple if group.sole_path else fewest
            for multiple, fewest, group in zip(
                whole, asked, self.groups, strict=True
            )
        ]
        # As long as no phase has a target.
        self.fixed_floors = self.last_floors = Floors({}, fixed)

    def _set_up_costs(self, costs: Mapping[str, Cost]) -> None:
        # No ModuleDict, which takes no child named `parameters`.
        self.counted = nn.ModuleList(costs.values())
        self.costs = list(costs)
        # Copies on the CPU, by name, where the costs lie elsewhere.
        self._host_costs: dict[str, Cost] = {}

    def _set_up_phase(self) -> None:
        # No buffer: read several times in each step, it stays on the CPU.
        self._stored = Progress().to_tensor(self.costs)
        self.progress = Progress()
        # Of a phase that may end early.
        self.stability: Stability | None = None
        # Whether the gate was set from outside of any phase, and whether
        # steps before a phase were warned of.
        self.given, self.warned = False, False
        self.watch = StepWatch(self.groups)
        # From the beginning of a phase on.
        self.branch_watch: BranchWatch | None = None

    def _set_up_masks(self) -> None:
        # Masks apply from the first forward on; before it, weights are set.
        self.active, self.complete = False, False
        # Whether narrowing took it off its network.
        self.taken_off = False
        # For the gate, in a forward that is trained.
        self.stand_in = StandIn()
        self.applied_masks: list[AppliedMask] = []
        # Where masked modules hang, from the first forward on.
        self.places: list[Place] = []
        # Parameters that have some, each once: module and name in it.
        self.masked: list[tuple[nn.Module, str]] = []
        # Of the hooks on the network that go when the pruner goes.
        self.hook_ids: list[int] = []
        # Whether the network has begun to load, and the pruner has not yet.
        self.loading = False

    def _set_up_origin(self) -> None:
        """What who attaches the pruner may know of its network."""
        # Of the image at which costs were counted.
        self.input_shape: Any = None
        # What no method may remove.
        self.frozen: list[FrozenChannels] = []
        # How pruning was asked for, by name of the argument.
        self.settings: dict[str, Any] = {}

    def _set_up_buffers(self) -> None:
        sizes = torch.tensor(self.sizes)
        # Group of every channel, [channels]: 0 0 0 1 1 2 2 2 2 ...
        owner = torch.arange(len(sizes)).repeat_interleave(sizes)
        # Not persistent: they follow from the network.
        self.register_buffer('group', owner, persistent=False)
        self.register_buffer('gate', torch.ones(len(owner)))
        self.register_buffer('scores', torch.zeros(len(owner)))
        # Values of buffers that lie on the device meta by now, by name: a
        # state dict has not all of them, and that of a dense network none.
        self._before_meta: dict[str, Tensor] = {}

    def _set_up_signals(self) -> None:
        self.gradient: Tensor | None = None
        self.loss_scale = 1.0
        score = self.scorer.score
        asked = score.uses_gradient or self.protect > 0
        self.harm = Harm(len(self.gate), score.memory) if asked else None

    @property
    def _whole(self) -> Pruner:
        """Itself as methods know it, for this is a base of :class:`Pruner`."""
        return cast('Pruner', self)

    def forward(self, x: Tensor) -> Tensor:
        """Returns its input: an ``nn.Sequential`` runs its new child too."""
        return x

    # What methods and masks read in every step.

    @property
    def uses_gradient(self) -> bool:
        """Whether the gradient of the task loss by the gate is asked for."""
        return self.method.uses_gradient or self.harm is not None

    @property
    def factor(self) -> Tensor:
        """What masked parameters are multiplied by, ``[channels]``."""
        relaxed = self.stand_in.value
        return self.gate if relaxed is None else relaxed

    @property
    def sizes(self) -> list[int]:
        """Number of channels of every group."""
        return [g.size for g in self.groups]

    @property
    def parts(self) -> Segments:
        """Where the channels of every group lie."""
        return segments(self.sizes, self.gate.device)

    @property
    def host_parts(self) -> Segments:
        """The same on the CPU, where searches run."""
        return segments(self.sizes, torch.device('cpu'))

    @property
    def progress(self) -> Progress:
        """Phase, steps and targets."""
        return self._progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        self._progress = progress
        self._stored.copy_(progress.to_tensor(self.costs))

    @property
    def phase(self) -> Phase:
        """Before, in or after the pruning phase."""
        return self.progress.phase

    @property
    def mask(self) -> Tensor:
        """Which channels live, bool ``[channels]``.

        Those that shrink are condemned, and live no more.
        """
        gate = self.gate.detach()
        return gate == 1 if self.shrinks else gate > 0

    @property
    def shrinks(self) -> bool:
        """Whether condemned channels shrink before they are gone."""
        return not self.shrinking.at_once

    @property
    def decided(self) -> Tensor:
        """The gate with zeros for what does not live, ``[channels]``."""
        return torch.where(self.mask, self.gate.detach(), 0)

    def by_group(self, values: Tensor) -> dict[str, Tensor]:
        """Splits values of channels, ``[channels]``, by name of the group."""
        parts = values.split(self.sizes)
        return dict(zip([g.name for g in self.groups], parts, strict=True))

    def keep_ratios(self) -> dict[str, float]:
        """Returns the share of living channels of every group."""
        check_has_values(self.gate)
        mask = self.mask.cpu()
        return {
            name: float(part.double().mean())
            for name, part in self.by_group(mask).items()
        }

    def take_over(self, other: PrunerState) -> None:
        """Makes gate, state and progress those of another one.

        Args:
            other (PrunerState): Of a copy of the same network.
        """
        ended = (self.phase, other.phase) == (Phase.PRUNING, Phase.FINISHED)
        for mine, theirs in zip(self.buffers(), other.buffers(), strict=True):
            mine.data.copy_(theirs.data)
        self.progress, self.active = other.progress, other.active
        self.stability = other.stability
        if ended:
            self.method.finish(self._whole)

    def extra_repr(self) -> str:
        """Shows what is pruned."""
        return f'groups={len(self.groups)}, channels={len(self.gate)}'
