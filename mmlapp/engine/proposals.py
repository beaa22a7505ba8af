# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Region proposals of two-stage detectors, the same for two models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def chosen_proposals(
    model: nn.Module, choose: Callable[[Any], Any]
) -> Iterator[None]:
    """Sends the proposals of a two-stage detector through a function.

    They are chosen by rank, which a rounding error may change. Inside of
    another choice this one does nothing.

    Args:
        model (nn.Module): Any model; one without proposals is left alone.
        choose (Callable): Returns the proposals to use.
    """
    head = getattr(model, 'rpn_head', None)
    if head is None or 'predict' in vars(head):
        yield
        return
    original = head.predict

    def predict(*args: Any, **kwargs: Any) -> Any:
        own = original(*args, **kwargs)
        return _as_exact(copy.deepcopy(choose(own)), own)

    head.predict = predict
    try:
        yield
    finally:
        del head.predict


def _as_exact(chosen: Any, own: Any) -> Any:
    """Proposals of float32 for a model that computes in float64."""
    for theirs, mine in zip(chosen, own, strict=True):
        for name, value in theirs.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                theirs.set_field(value.to(mine[name].dtype), name)
    return chosen
