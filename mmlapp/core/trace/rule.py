# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The rule of an operator, and what else the tracer asks of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .call import Call

if TYPE_CHECKING:
    from .tracer import Tracer

Follow = Callable[['Tracer', Call], None]


def never(call: Call) -> bool:
    """Whether a call carries the mask: no."""
    return False


@dataclass(frozen=True)
class Rule:
    """What to do at an operator.

    Args:
        follow (Callable): Called with the tracer and the call; ties what
            must go together and sets the labels of the outputs.
        carries_mask (Callable): Whether a call scales every channel that it
            reads by a parameter of its own. The mask of the layer before it
            is then applied there, where it does not change the statistics.
            Defaults to no call.
    """

    follow: Follow
    carries_mask: Callable[[Call], bool] = never


def rules_of_aten(
    rows: Mapping[Follow, str],
    carries_mask: Callable[[Call], bool] = never,
) -> dict[str, Rule]:
    """Writes rules under the full names of PyTorch's operators.

    Args:
        rows (Mapping): Function to the names of its operators, with spaces
            between, without ``aten::``.
        carries_mask (Callable): As of ``Rule``, for all of them.

    Examples:
        >>> sorted(rules_of_aten({print: 'cat stack'}))
        ['aten::cat', 'aten::stack']
    """
    return {
        f'aten::{name}': Rule(follow, carries_mask)
        for follow, names in rows.items()
        for name in names.split()
    }
