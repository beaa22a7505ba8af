# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A network under test, with weights, masks and plans."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

from torch import Tensor, nn

from mmlapp.core import (
    ChannelPlan,
    Pruner,
    PruningError,
    PruningWarning,
    attach,
    narrow,
)

from .agreement import run, same
from .masks import draw_mask
from .networks import Network, random_state

# What is said of a network that has nothing to prune.
NOTHING = (
    'no channel can be pruned',
    'no convolution or linear layer that emits more than one channel',
    'no layer can take a bypass',
    'has a bypass from an earlier pruning',
)


class RefusedError(Exception):
    """A network that has nothing to prune; no fault of anybody."""


@dataclass
class Case:
    """A network under test.

    Args:
        network (Network): How it is made.
        options (dict[str, Any]): Of ``attach``.
    """

    network: Network
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def rng(self) -> Random:
        """Chooses masks and the like, the same ones at every turn."""
        return Random(f'{self.network.spec.seed} checks')

    @cached_property
    def example(self) -> Any:
        """What the network is traced with."""
        return self.network.example()

    def dense(self) -> nn.Module:
        """Makes the network with the weights of after training."""
        model = self.network.build()
        model.load_state_dict(self.weights(model))
        return model

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Returns the weights of after training."""
        return random_state(model, self.network.spec.seed)

    @cached_property
    def masked(self) -> nn.Module:
        """The network with a pruner, all channels alive."""
        return self.attached()

    def attached(self, **more: Any) -> nn.Module:
        """Makes the network with a pruner.

        Args:
            **more (Any): Further options of ``attach``.

        Raises:
            RefusedError: If it has nothing to prune.
        """
        # Half of all networks are analysed as they begin, with gates at
        # zero, and trained afterwards.
        late = self.network.spec.seed % 2 == 1
        model = self.network.build() if late else self.dense()
        before = run(model, self.example)
        keys = list(model.state_dict())
        try:
            with warnings.catch_warnings():
                # That of a network whose outputs repeat can be checked.
                warnings.filterwarnings(
                    'error', '.*cannot be checked', PruningWarning
                )
                attach(
                    model,
                    self.example,
                    unused=self.network.unused,
                    **self.options,
                    **more,
                )
        except PruningError as error:
            raise understood(error) from error
        if 'bypass' not in self.options:
            same(before, run(model, self.example), 'attached')
        found = [k for k in model.state_dict() if not _added(k)]
        assert found == keys, 'attach changes the keys of the state dict'
        if late or 'bypass' in self.options:
            weights = self.weights(model)
            own = {k: w for k, w in weights.items() if 'pruner.' not in k}
            model.load_state_dict(own, strict=False)
        return model

    @property
    def pruner(self) -> Pruner:
        """Of the masked network."""
        found = self.masked.pruner
        assert isinstance(found, Pruner)
        return found

    def mask(self, name: str) -> ChannelPlan:
        """Masks the network; returns the plan."""
        self.pruner.set_mask(draw_mask(self.pruner, self.rng, name))
        return self.pruner.plan()

    def narrowed(self, plan: ChannelPlan) -> nn.Module:
        """Makes the narrow network of the masked one."""
        return narrow(copy.deepcopy(self.masked), plan)


def understood(error: PruningError) -> Exception:
    """Returns the error, or that there is nothing to prune."""
    nothing = any(text in str(error) for text in NOTHING)
    return RefusedError(str(error)) if nothing else error


def _added(key: str) -> bool:
    return 'pruner.' in key or 'bypass' in key or key.endswith('.kept')
