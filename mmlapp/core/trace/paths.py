# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which path of a network's code a run takes, and what it asks there.

A path that only another run takes may compute with numbers of channels unseen,
such as ``if x.shape[-1] > 64: q = q * q.shape[1] ** -0.5`` on small images.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from torch.overrides import TorchFunctionMode

from .thresholds import OWN

HERE = os.path.dirname(os.path.abspath(__file__))
WATCHING = 'counted', 'paths', 'sizes', 'thresholds', 'torch_functions'
# What stands between the code of a network and the notes of its calls:
# PyTorch, and here numbers and functions that are watched.
PASSED = OWN[0], *(os.path.join(HERE, f'{name}.py') for name in WATCHING)
# Code of a function of the network, by its id, which can be pickled; a line.
Line = tuple[int, int]


@dataclass
class Path:
    """Where the code of a network called PyTorch in a run.

    Args:
        calls (dict[tuple[int, int], Line]): Code and number of the
            instruction, and the line that it is in: ``if a: b`` is one line.
        asking (set[Line]): Lines that ask for numbers of channels.
    """

    calls: dict[tuple[int, int], Line] = field(default_factory=dict)
    asking: set[Line] = field(default_factory=set)

    def call(self) -> None:
        """Notes a call of PyTorch."""
        if (frame := _frame_of_network()) is not None:
            code = id(frame.f_code)
            self.calls[code, frame.f_lasti] = code, frame.f_lineno

    def ask(self) -> bool:
        """Notes that a number of channels is asked for.

        Returns:
            bool: Whether the network's own code does.
        """
        if (frame := _frame_of_network()) is None:
            return False
        self.asking.add((id(frame.f_code), frame.f_lineno))
        return True

    def asks_alone(self, other: Path) -> bool:
        """Whether it asks for numbers of channels where another did not come.

        Args:
            other (Path): Of a run that noted calls.
        """
        missed = {
            line
            for call, line in self.calls.items()
            if call not in other.calls
        }
        # A line without a call may be any of its function.
        silent = {
            code for code, _ in self.asking.difference(self.calls.values())
        }
        return any(line in self.asking or line[0] in silent for line in missed)


class WatchCalls(TorchFunctionMode):
    """Notes the path that a network takes.

    Args:
        path (Path): Receives it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.path.call()
        return func(*args, **(kwargs or {}))


def _frame_of_network() -> FrameType | None:
    """Of the code that called PyTorch or counts; None if that is no network's.

    What follows a network asks for shapes as well, in the middle of its code.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(PASSED):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(OWN):
        return None
    return frame
