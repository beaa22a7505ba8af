# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Groups of which two channels must stay, for one alone says nothing.

A norm over a single number returns its shift, whatever comes in, or 0 / 0, or
an error: a layer norm of one channel, a group norm of one at one position, a
filter that is standardised over one input. Which modules are so is seen when
they run, each by itself, on one channel of a group and on two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from ..compare import TRIAL_TOLERANCE
from ..groups import ChannelGroup, Groups
from ..mask.living import Living
from ..mask.masking import living_parts
from ..trace import Trace
from .runs import FixedGate, all_finite

# Of an input no more than this along any dimension but that of channels:
# whether there are several positions makes a difference, not how many.
MOST = 8


def lone_groups(
    model: nn.Module, record: Trace, groups: Groups
) -> list[ChannelGroup]:
    """Returns the groups of which some module needs two channels.

    Args:
        model (nn.Module): The network, not changed.
        record (Trace): Its trace.
        groups (Groups): Its groups.
    """
    found: dict[str, ChannelGroup] = {}
    for module in _modules(model, record, groups):
        for number in module.groups():
            group = groups.prunable[number]
            if group.floor > 1 or group.name in found:
                continue
            # One channel first: for most modules it is enough.
            if not module.says(number, 1) and module.says(number, 2):
                found[group.name] = group
    return list(found.values())


def _modules(
    model: nn.Module, record: Trace, groups: Groups
) -> Iterator[_Alone]:
    """Yields what computes over prunable channels."""
    # On `meta` there are no values, by which channels are chosen.
    devices = [p.device for p in model.parameters() if not p.is_meta]
    starts = [0, *accumulate(group.size for group in groups.prunable)]
    gate = torch.ones(starts[-1], device=devices[0] if devices else 'cpu')
    source = FixedGate(gate)
    for name, living in living_parts(source, record, groups):
        shape = record.living_modules[name].shape
        module = model.get_submodule(name)
        yield _Alone(module, shape, living, source, starts)


class _Alone:
    """A module that runs by itself, on some of its channels.

    Args:
        module (nn.Module): The module, not changed.
        shape (Sequence[int]): Of its input.
        living (Living): Which channels belong to what of it.
        source (FixedGate): Chooses them.
        starts (Sequence[int]): First channel of every group, and the number
            of all.
    """

    def __init__(
        self,
        module: nn.Module,
        shape: Sequence[int],
        living: Living,
        source: FixedGate,
        starts: Sequence[int],
    ) -> None:
        self.module, self.shape, self.living = module, shape, living
        self.source, self.starts = source, starts

    def groups(self) -> list[int]:
        """Numbers of the groups whose channels go in or come out."""
        ends = torch.cat([self.living.channels, self.living.outputs]).unique()
        # starts[k] <= channel < starts[k + 1]; -1 is no channel.
        starts = torch.tensor(self.starts)
        found = torch.bucketize(ends[ends >= 0], starts, right=True) - 1
        numbers: list[int] = found.unique().tolist()
        return numbers

    def says(self, number: int, count: int) -> bool:
        """Whether what it gives depends on what it is given.

        Args:
            number (int): Number of a group.
            count (int): How many of its channels there are; of others all.
        """
        start, end = self.starts[number : number + 2]
        self.source.factor = torch.ones_like(self.source.factor)
        self.source.factor[start + count : end] = 0
        dice = torch.Generator().manual_seed(0)
        try:
            first, *others = self._outputs(dice)
        except Exception:
            return False  # it does not run
        return all_finite([first]) and not all(
            torch.allclose(first, other, TRIAL_TOLERANCE, TRIAL_TOLERANCE)
            for other in others
        )

    def _outputs(self, dice: torch.Generator) -> list[Tensor]:
        """What it gives for random numbers, their negatives, and others."""
        alive = self.living.now()
        twin = self.living.narrowed(self.module, alive)
        for part in twin.modules():
            _fill(part, dice)
        shape = [min(size, MOST) for size in self.shape]
        dim = self.living.dim
        shape[dim] = len(alive.index(self.living.channels))
        x, other = torch.randn(
            2, *shape, generator=dice, dtype=torch.float64, device='cpu'
        )
        with torch.no_grad():
            return [twin.forward(given) for given in (x, -x, other)]


def _fill(part: nn.Module, dice: torch.Generator) -> None:
    """Gives a twin its own numbers, for initial ones may be zero."""
    part.training = False
    for store in (part._parameters, part._buffers):
        for name, value in store.items():
            if value is None:
                continue
            # Uniform in [0.5, 1.5], near which no gate is shut.
            numbers = torch.rand(
                value.shape, generator=dice, dtype=torch.float64, device='cpu'
            )
            floating = value.is_floating_point()
            twin = numbers + 0.5 if floating else value.clone()
            store[name] = twin  # type: ignore[assignment]
