# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores of all groups of a network, computed when they are due."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..derived import lay_out
from ..errors import PruningError
from ..segments import Segments
from .base import SCORES, Score
from .group_scores import (
    UNKNOWN,
    GroupInfo,
    checked,
    contexts,
    refuse_stripes,
    score_name,
)
from .normalise import NORMALISATIONS
from .rows import Rows


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
        self.normalisation = normalisation
        self.prepared = not self.score.batches
        # Of the groups that were scored last, by device.
        self._groups: Sequence[GroupInfo] = []
        self._rows: dict[torch.device, Rows] = {}

    def is_due(self, step: int) -> bool:
        """Whether scores are computed after a step of the phase.

        Args:
            step (int): Its number; 0 when the phase begins.
        """
        every = self.score.refresh
        # 0: once, when the phase begins; 0 is a multiple of any other number.
        return step == 0 if every == 0 else step % every == 0

    def compute(
        self, groups: Sequence[GroupInfo], harm: Tensor | None = None
    ) -> Tensor:
        """Returns the scores of the live weights, ``[channels]``.

        Those of a group are the mean over its layers. It is normalised once
        more: means of ranks crowd around one half, and a threshold would run
        through a group of many layers sooner than through one of a single
        layer.

        Args:
            groups (Sequence[GroupInfo]): All groups, in order.
            harm (Tensor, optional): Mean squared gradient of the task loss
                by the gate, ``[channels]``. Defaults to None.

        Returns:
            Tensor: Float32, not finite where a layer's scores are not.
        """
        parts = UNKNOWN
        if harm is not None:
            # Taken one by one below, in the order of all layers of all groups.
            parts = iter(self._rows_of(groups, harm.device).split(harm))
        found = []
        for group in groups:
            for _, context in contexts(group, self.score, parts):
                found.append(checked(self.score, context))
        self._check_kept()
        scores = torch.cat(found).detach().float()
        rows = self._rows_of(groups, scores.device)
        # [rows] -> [slots] -> normalised within each layer -> [channels] ->
        # normalised within each group.
        by_layer = self._openly(rows.by_slot(scores), rows.layers)
        return self._openly(rows.by_channel(by_layer), rows.groups)

    def _openly(self, scores: Tensor, parts: Segments) -> Tensor:
        """A rank would hide a NaN or an infinity: times zero, it stays."""
        return self.normalise(scores, parts) + scores * 0

    def _rows_of(
        self, groups: Sequence[GroupInfo], device: torch.device
    ) -> Rows:
        """Where the rows of all layers belong, found once."""
        if self._groups is not groups:
            self._groups, self._rows = groups, {}
        if device not in self._rows:
            self._rows[device] = Rows(groups, device)
        return self._rows[device]

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
        layers = {la.name: la.module for g in groups for la in g.layers}
        with evaluating(model):
            self.score.prepare(model, layers, batches)
            self._check_kept()
            self.prepared = True

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

    def check_groups(self, groups: Sequence[GroupInfo]) -> None:
        """Raises PruningError if the score knows nothing of some parts.

        Args:
            groups (Sequence[GroupInfo]): All groups.
        """
        if self.score.by_channel:
            refuse_stripes(f'score={score_name(self.score)}', groups)

    def check_prepared(self) -> None:
        """Raises PruningError if batches are wanted and were not shown."""
        if not self.prepared:
            name = score_name(self.score)
            raise PruningError(
                f'score={name} looks at {self.score.batches} calibration '
                'batches: call pruner.prepare(model, batches) before begin, '
                'or before a phase that was loaded goes on'
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a network into evaluation mode for a while, without gradients.

    Those that it has, of the gate too, and its modes are put back.

    Args:
        model (nn.Module): The network.
    """
    modes = {module: module.training for module in model.modules()}
    # The gate learns, too, and is a buffer.
    gradients = {t: t.grad for t in (*model.parameters(), *model.buffers())}
    try:
        # A score may run a backward of its own.
        for tensor in gradients:
            tensor.grad = None
        for module in modes:
            module.training = False
        lay_out(modes)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for tensor, gradient in gradients.items():
            tensor.grad = gradient
