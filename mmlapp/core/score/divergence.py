# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a classifier says without each channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import PruningError
from ..numbers import check_number
from .base import Score, ScoreContext, register_score


@register_score('kl_divergence')
class KLDivergence(Score):
    r"""Change of the predictions without a channel (CURL, 1911.08114).

    :math:`\overline{\mathrm{KL}(q \| p)} = \overline{\sum_k q_k
    \log(q_k / p_k)}` over calibration images, with the probabilities p of
    the dense network and q of the one without the channel. A forward per
    channel and batch: costly, once. It means the same in every layer:
    ``normalisation='none'``.

    Args:
        batches (int): Calibration batches; the paper's is one of 256 images.
            Defaults to 1.

    Raises:
        PruningError: If it is no whole number from 1 on.
    """

    refresh = 0
    outputs = True

    def __init__(self, batches: int = 1) -> None:
        name = 'score kl_divergence batches'
        check_number(name, batches, least=1, whole=True)
        self.batches = batches
        self.scores: dict[str, Tensor] = {}

    @torch.no_grad()
    def prepare(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        batches: Iterable[Callable[[], Any]],
    ) -> None:
        """Runs the batches without each channel, one after the other."""
        pruner: Any = model.pruner
        total, images = torch.zeros_like(pruner.gate.double()), 0
        for number, run in enumerate(batches):
            dense = log_probabilities(run())
            images += len(dense)
            for channel in range(len(total)):
                total[channel] += self._without(pruner, channel, run, dense)
                done = number + (channel + 1) / len(total)
                self.report(done / self.batches)
        # Rounded, a divergence of nothing may be a little less than nothing.
        mean = (total / max(images, 1)).clamp_min(0)
        self.scores = _by_layer(pruner, mean)

    def _without(
        self, pruner: Any, channel: int, run: Callable[[], Any], dense: Tensor
    ) -> Tensor:
        """Sum of the divergence over images, scalar."""
        former = pruner.gate[channel].clone()
        pruner.gate[channel] = 0
        try:
            masked = log_probabilities(run())
        finally:
            pruner.gate[channel] = former
        # Both [images, classes].
        return (masked.exp() * (masked - dense)).sum()

    def __call__(self, context: ScoreContext) -> Tensor:
        """Returns what the batches told."""
        return self.scores[context.name]


def _by_layer(pruner: Any, values: Tensor) -> dict[str, Tensor]:
    """Values of channels at the outputs of every layer, each ``[N]``."""
    found: dict[str, Tensor] = {}
    parts = values.split(pruner.sizes)
    for group, part in zip(pruner.groups, parts, strict=True):
        for layer in group.layers:
            index = layer.channels.to(part.device)
            rows = torch.where(index >= 0, part[index.clamp_min(0)], 0)
            # Other groups own the other outputs of a layer.
            found[layer.name] = found.get(layer.name, 0) + rows
    return found


def log_probabilities(returned: Any) -> Tensor:
    """Logarithms of what a classifier predicts.

    Args:
        returned (Any): What the network returns: logits, and no more.

    Returns:
        Tensor: Float64, ``[images, classes]``.

    Raises:
        PruningError: If it is something else.
    """
    leaves = [leaf for leaf in tree_leaves(returned) if leaf is not None]
    if len(leaves) == 1 and isinstance(leaves[0], Tensor):
        (logits,) = leaves
        if logits.dim() == 2 and logits.shape[1] > 1:
            found: Tensor = logits.double().log_softmax(dim=1)
            return found
    shapes = [tuple(getattr(leaf, 'shape', ())) for leaf in leaves]
    raise PruningError(
        'score=kl_divergence: expected the logits of a classifier, one tensor '
        f'of shape [images, classes], got {len(leaves)} values of shapes '
        f'{shapes[:4]}. For other networks take another score'
    )
