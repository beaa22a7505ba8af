# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Gradients and scores of a step, and what is spared for its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ..score.group_scores import report_non_finite
from .protection import lifted, protected
from .ranks import mean_gradient, mean_over_ranks, read_flags
from .targets import Targets


class Signals(Targets):
    """A pruner's targets with what its decisions are made from.

    Takes the arguments of :class:`PrunerState`.
    """

    @property
    def protected(self) -> Tensor:
        """Which channels are spared for their gradients, ``[channels]``."""
        harm = None if self.harm is None else self.harm.mean()
        if harm is None:
            return torch.zeros_like(self.gate, dtype=torch.bool)
        return protected(harm, self.sizes, self.protect)

    def spared_first(
        self, order: Tensor, among: Tensor | None = None
    ) -> Tensor:
        """Returns an order with protected channels before all others.

        Args:
            order (Tensor): The larger, the longer kept; ``[channels]``.
            among (Tensor, optional): Which ones may be moved, bool
                ``[channels]``. Defaults to None: all.
        """
        if self.protect == 0:
            return order
        spared = self.protected
        if among is not None:
            spared = spared & among
        return lifted(order, spared) if spared.any() else order

    def _look(self, step: int) -> None:
        """Takes in the gradient and the scores of a step of the phase."""
        # Whether both can be used is asked last and at once: a GPU does all
        # that it was given before it answers.
        gradient = scores = usable = finite = None
        if step > 0 and self.uses_gradient:
            # Before the first step no backward has run: no gradient, but
            # scores.
            gradient, usable = mean_gradient(self.gate, self.loss_scale)
            if self.harm is not None:
                self.harm.note(gradient, usable, self.progress.steps)
        if self.scorer.is_due(step):
            # In a phase that was loaded the score may not have looked yet.
            self.scorer.check_prepared()
            scores = self._live_scores()
            finite = scores.isfinite().all()
        of_use, are_finite = read_flags(usable, finite)
        self.gradient = gradient if of_use else None
        if scores is None:
            return
        if not are_finite:
            report_non_finite(self.groups, self.scorer.score, step)
        # Into the buffer, which state dicts and methods read.
        self.scores.copy_(scores)

    def _live_scores(self) -> Tensor:
        harm = None if self.harm is None else self.harm.mean()
        scores = self.scorer.compute(self.groups, harm)
        if self.scorer.score.batches:  # each process saw some of its own
            scores = mean_over_ranks(scores)
        return scores

    def _follow_weights(self) -> None:
        """Forgets gradients if those of the weights were forgotten.

        A closure runs several times in one step of the optimizer, and a loop
        may pass over a batch.
        """
        if self.gate.grad is None or not self._weights_forgot():
            return
        for value in self.buffers():
            value.grad = None

    def _weights_forgot(self) -> bool:
        """Whether no masked weight has a gradient, though some could."""
        weights = (module._parameters[name] for module, name in self.masked)
        found = [w.grad for w in weights if w is not None and w.requires_grad]
        # The first one that is there answers; zeros are what is left of one.
        there = any(g is not None and bool(g.any()) for g in found)
        return bool(found) and not there

    def _forget(self) -> None:
        self.gate.grad = self.gradient = None
