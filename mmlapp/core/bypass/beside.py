# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A layer with a branch beside it, in place."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import PruningError
from ..mixins import mix_in
from .branch import Branch


class Bypassed:
    """Mixin of a layer with a branch: y = W(x) + B(x)."""

    bypass: Branch | None
    kept: Tensor | None

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """Adds both; what was removed costs nothing.

        Args:
            *args (Tensor): Its input, by position or by name.
            **kwargs (Tensor): As ``args``.

        Raises:
            PruningError: If there is more than an input.
        """
        x, *others = (*args, *kwargs.values())
        if others:
            raise PruningError(
                f'{type(self).__name__} with a bypass takes its input alone, '
                f'not {len(others)} more arguments: add it to `ignore`'
            )
        if self.kept is None:
            y: Tensor = super().forward(x)  # type: ignore[misc]
            return y if self.bypass is None else self.bypass(x) + y
        assert self.bypass is not None
        y = self.bypass(x)
        if self.kept.numel():
            # W has [kept] outputs, B all of them: each to its place.
            # kept = [1, 4]: output 0 of W goes to channel 1, output 1 to 4.
            y = y.index_add(1, self.kept, super().forward(x))  # type: ignore[misc]
        return y


def add_bypass(layer: nn.Module, branch: Branch) -> None:
    """Puts a branch beside a layer, in place.

    Args:
        layer (nn.Module): The layer; its class becomes a subclass and its
            state-dict keys stay.
        branch (Branch): What to add.
    """
    mix_in(layer, Bypassed)
    # New modules are in training mode, the network may not be.
    layer.add_module('bypass', branch.train(layer.training))
    layer.register_buffer('kept', None)
