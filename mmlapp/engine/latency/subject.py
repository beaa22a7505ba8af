# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a latency table is measured of, and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mmlapp.core import Analysis
from mmlapp.core.attach import cost_context
from mmlapp.core.cost.latency_table import key_of_call
from mmlapp.core.methods.budget import check_divisor
from mmlapp.core.numbers import check_number

from .kinds import Kind, kinds
from .setting import Setting
from .timing import Timing, clock_of, interleaved


@dataclass(frozen=True)
class Procedure:
    """How a table is measured.

    Args:
        setting (Setting): Backend, threads, batch and device.
        points (int): Widths of each dimension that may shrink, beside half
            of the least. Defaults to 8.
        rounds (int): Timed calls of each layer at each width. Defaults to
            15.
        divisor (int): What widths are multiples of. Defaults to 8.
        clock (Callable, optional): Seconds. Defaults to None: those of the
            device.

    Raises:
        PruningError: If there are too few points or rounds.
    """

    setting: Setting = field(default_factory=Setting)
    points: int = 8
    rounds: int = 15
    divisor: int = 8
    clock: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        """Checks what a user gave."""
        # Two: the half and the whole, see how tables are checked.
        check_number('points', self.points, least=2, whole=True)
        check_number('rounds', self.rounds, least=1, whole=True)
        check_divisor(self.divisor)

    def time(
        self, runs: Sequence[Callable[[], object]], times: int = 1
    ) -> list[Timing]:
        """Times functions in turns.

        Args:
            runs (Sequence[Callable]): What to time.
            times (int): How often all rounds. Defaults to 1.
        """
        clock = self.clock or clock_of(self.setting.device)
        return interleaved(runs, times * self.rounds, clock=clock)


@dataclass(frozen=True)
class Subject:
    """The network that is measured.

    Args:
        name (str): What a report calls it.
        model (nn.Module): The dense network in evaluation mode.
        analysis (Analysis): What can be pruned in it.
        images (Tensor): One image, ``[1, c, h, w]``.
        part (Callable): Makes what is timed from a model, dense or narrow:
            a module that maps images to tensors.
    """

    name: str
    model: nn.Module
    analysis: Analysis
    images: Tensor
    part: Callable[[nn.Module], nn.Module] = lambda model: model


def kinds_of(subject: Subject, procedure: Procedure) -> list[Kind]:
    """Returns what is measured of a network.

    Args:
        subject (Subject): The network.
        procedure (Procedure): At which widths.
    """
    context = cost_context(subject.model, subject.analysis)
    return kinds(
        context, procedure.setting.batch, procedure.points, procedure.divisor
    )


def describe(subject: Subject, procedure: Procedure) -> dict[str, Any]:
    """Returns what a table holds for.

    Args:
        subject (Subject): The network.
        procedure (Procedure): How it is measured.
    """
    # Names, shapes and widths tell models apart, and scopes.
    text = json.dumps(
        [
            [k.names, key_of_call(k.call), dict(k.axes)]
            for k in kinds_of(subject, procedure)
        ]
    )
    return {
        'model': subject.name,
        # 64 bits: two tables differ by chance once in 10^19.
        'layers': hashlib.sha256(text.encode()).hexdigest()[:16],
        'input_shape': list(subject.images.shape[1:]),
        **procedure.setting.described(),
    }
