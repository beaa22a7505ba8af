# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores of all groups of a network, computed when they are due."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import PruningError
from .base import SCORES, Score
from .group_scores import GroupInfo, group_scores, score_name
from .normalise import NORMALISATIONS


class Scorer:
    """An importance score with its normalisation.

    Args:
        score (str, Mapping or Score): The score, with its settings.
        normalisation (str): How scores of different layers become
            comparable.

    Raises:
        PruningError: If a name is unknown.
    """

    def __init__(
        self, score: str | Mapping[str, Any] | Score, normalisation: str
    ) -> None:
        self.score: Score = SCORES.build(score)
        self.normalise = NORMALISATIONS[normalisation]
        self.prepared = not self.score.batches

    def is_due(self, step: int) -> bool:
        """Whether scores are computed after a step of the phase.

        Args:
            step (int): Its number; 0 when the phase begins.
        """
        every = self.score.refresh
        return step == 0 if every == 0 else step % every == 0

    def compute(
        self, groups: Sequence[GroupInfo], harm: Tensor | None = None
    ) -> Tensor:
        """Returns the scores of the live weights, ``[channels]``.

        Args:
            groups (Sequence[GroupInfo]): All groups, in order.
            harm (Tensor, optional): Mean squared gradient of the task loss
                by the gate, ``[channels]``. Defaults to None.
        """
        sizes = [group.size for group in groups]
        parts = [None] * len(sizes) if harm is None else harm.split(sizes)
        found = torch.cat(
            [
                group_scores(group, self.score, self.normalise, part)
                for group, part in zip(groups, parts, strict=True)
            ]
        )
        self._check_kept()
        return found

    def prepare(
        self,
        model: nn.Module,
        groups: Sequence[GroupInfo],
        batches: Iterable[Callable[[], Any]],
    ) -> None:
        """Lets the score look at calibration batches, once.

        Modes and gradients of the network are put back.

        Args:
            model (nn.Module): The network.
            groups (Sequence[GroupInfo]): All groups.
            batches (Iterable[Callable]): See :meth:`Score.prepare`.
        """
        modes = {module: module.training for module in model.modules()}
        # The gate learns, too, and is a buffer.
        gradients = {
            t: t.grad for t in (*model.parameters(), *model.buffers())
        }
        layers = {la.name: la.module for g in groups for la in g.layers}
        try:
            # A score may run a backward of its own.
            for tensor in gradients:
                tensor.grad = None
            for module in modes:
                module.training = False
            self.score.prepare(model, layers, batches)
            self._check_kept()
            self.prepared = True
        finally:
            for module, mode in modes.items():
                module.training = mode
            for tensor, gradient in gradients.items():
                tensor.grad = gradient

    def _check_kept(self) -> None:
        """A graph cannot be copied, and with it neither can the network."""
        for name, value in vars(self.score).items():
            leaves = tree_leaves(value)
            if any(getattr(leaf, 'grad_fn', None) for leaf in leaves):
                raise PruningError(
                    f'score={score_name(self.score)} keeps {name} with the '
                    'graph that it was computed by, so that the network '
                    'cannot be copied any more: keep what detach() returns'
                )

    def check_prepared(self) -> None:
        """Raises PruningError if batches are wanted and were not shown."""
        if not self.prepared:
            name = score_name(self.score)
            raise PruningError(
                f'score={name} looks at {self.score.batches} calibration '
                'batches: call pruner.prepare(model, batches) before begin'
            )
