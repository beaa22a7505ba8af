# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether a model may be narrowed, tried on a copy."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from mmlapp.core import ChannelPlan, PruningError, shrink

from .verify import TOLERANCE, Comparison, random_probes


def try_narrowing(
    model: nn.Module, plan: ChannelPlan, input_shape: Sequence[int] | None
) -> None:
    """Compares a narrowed copy with the masked model on a random image.

    Args:
        model (nn.Module): The masked model; it stays as it is.
        plan (ChannelPlan): What to keep.
        input_shape (Sequence[int], optional): Channels, height and width of
            the image; without it there is no comparison.

    Raises:
        PruningError: If they differ, or the model does not run on the image.
    """
    if input_shape is None:
        return
    masked = copy.deepcopy(model)
    comparison = Comparison(masked, random_probes(input_shape)[:1])
    (check,) = comparison.check(shrink(masked, plan))
    if not check.passed:
        raise PruningError(
            f'on {check.name} the narrowed model differs from the masked one '
            f'by {check.error:.2g}, more than {TOLERANCE:g}'
        )
