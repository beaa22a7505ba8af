# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Notices weights that are pulled and stay where they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import PruningWarning


class Movement:
    """Whether weights move between two looks; no state of a phase.

    Args:
        name (str): Of the method, for the warning.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # Of every weight at the last look, [weights].
        self._norms: Tensor | None = None

    def begin(self) -> None:
        """Forgets what a former phase left."""
        self._norms = None

    def look(self, weights: Sequence[Tensor], pulls: Sequence[Tensor]) -> None:
        """Warns of weights that no step has moved since the last look.

        Args:
            weights (Sequence[Tensor]): All that learn.
            pulls (Sequence[Tensor]): What pulled each, of its shape.
        """
        former, self._norms = self._norms, norms(weights)
        if former is None or len(former) != len(self._norms):
            return
        still = (self._norms == former) & (norms(pulls) > 0)
        # One answer of a GPU, now and then.
        count = int(still.sum())
        if count:
            warnings.warn(
                f'method {self.name}: {count} of {len(still)} parameters that '
                'it pulls did not move at all, so that the pull does nothing. '
                'Give them to the optimizer, with a learning rate above zero, '
                'and take one that follows the gradient of the loss',
                PruningWarning,
                stacklevel=4,
            )


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Returns norms in float64, which show the last bit of float32.

    Args:
        tensors (Sequence[Tensor]): Any shapes.

    Returns:
        Tensor: Shape ``[tensors]``.
    """
    found = [t.detach().double().norm() for t in tensors]
    return torch.stack(found) if found else torch.zeros(0)
