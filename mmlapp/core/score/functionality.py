# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Of channels that do the same the least useful one goes first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import PruningError
from ..numbers import check_number
from ..trace import TABLES
from .base import Score, ScoreContext, register_score
from .clusters import k_means, standardised
from .normalise import by_rank, normalised

# Whose outputs have channels in their last dimension.
CHANNELS_LAST = nn.Linear, *TABLES


@register_score('functionality')
class Functionality(Score):
    r"""After functionality-oriented pruning (1810.07322), formula ours.

    The paper clusters the filters of a layer by the patterns that excite
    them, and removes from every cluster those that contribute least. Here
    channels are clustered by how they respond to calibration images, with
    the correlation of their mean outputs as similarity; the contribution of
    a channel is the mean of :math:`|\partial L / \partial a|` over its
    outputs. The score is the rank of the contribution inside the cluster, so
    that every cluster loses the same share.

    Args:
        clusters (int): Of every layer. Defaults to 10.
        batches (int): Calibration batches. Defaults to 8.

    Raises:
        PruningError: If a number is not whole or less than one.
    """

    refresh = 0
    by_channel = True

    def __init__(self, clusters: int = 10, batches: int = 8) -> None:
        for name, value in (('clusters', clusters), ('batches', batches)):
            name = f'score functionality {name}'
            check_number(name, value, least=1, whole=True)
        self.clusters, self.batches = clusters, batches
        self.scores: dict[str, Tensor] = {}

    def prepare(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        batches: Iterable[Callable[[], Any]],
    ) -> None:
        """Notes what layers put out, and what the loss makes of it."""
        notes = {name: Notes(layer) for name, layer in layers.items()}
        handles = [
            layer.register_forward_hook(notes[name].hook)
            for name, layer in layers.items()
        ]
        try:
            for number, run in enumerate(batches, start=1):
                with torch.enable_grad():
                    objective(run(), 'functionality').backward()
                self.report(number / self.batches)
        finally:
            for handle in handles:
                handle.remove()
        self.scores = {
            name: self._score(name, note) for name, note in notes.items()
        }

    def _score(self, name: str, note: Notes) -> Tensor:
        """Rank of the contribution inside the cluster, ``[N]``."""
        if 'responses' not in note.found:
            raise PruningError(
                f'score=functionality: {name} put no tensor out on the '
                f"calibration batches. Leave it alone with ignore=['{name}'], "
                'or take another score'
            )
        # [C, images]: a channel is a point, by how it responds.
        points = standardised(note.responses)
        contribution = note.contribution
        first = int(contribution.argmax())
        owner = k_means(points, self.clusters, first)
        scores = torch.zeros_like(contribution)
        for cluster in owner.unique():
            inside = owner == cluster
            # Ranks in (0, 1) in each cluster: one threshold cuts the same
            # share of all.
            scores[inside] = normalised(by_rank, contribution[inside])
        return scores

    def __call__(self, context: ScoreContext) -> Tensor:
        """Returns what the batches told."""
        return self.scores[context.name]


class Notes:
    """What one layer put out, channel by channel.

    Args:
        layer (nn.Module): The layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        # Outputs are [B, C, ...], of a linear layer [..., C].
        self.dim = -1 if isinstance(layer, CHANNELS_LAST) else 1
        self.found: dict[str, list[Tensor]] = defaultdict(list)

    def hook(self, module: nn.Module, args: Any, out: Any) -> Any:
        """Notes an output now, and its gradient when it comes."""
        if not isinstance(out, Tensor):
            return out
        learns = torch.is_grad_enabled()
        if learns and not out.requires_grad:
            # All before is frozen. A copy, which may be changed in place.
            out = out.detach().requires_grad_().clone()
        # [C, B, ...] -> [C, B].
        rows = out.detach().movedim(self.dim, 0)[..., None].flatten(2)
        self.found['responses'].append(rows.mean(2))
        # A part that is checkpointed runs without, and once more with it.
        if learns:
            out.register_hook(self._note_gradient)
        return out

    def _note_gradient(self, gradient: Tensor) -> None:
        # [B, C, ...] -> [C, B, ...] -> [C, everything else].
        size = gradient.detach().abs().movedim(self.dim, 0).flatten(1)
        self.found['sizes'].append(size.mean(1))

    @property
    def responses(self) -> Tensor:
        """Mean output of every channel for every image, ``[C, images]``."""
        return torch.cat(self.found['responses'], dim=1).float()

    @property
    def contribution(self) -> Tensor:
        """Mean size of the gradient by the outputs, ``[C]``."""
        sizes = self.found['sizes']
        if not sizes:
            return torch.zeros_like(self.responses[:, 0])
        return torch.stack(sizes).float().mean(0)


def objective(returned: Any, score: str) -> Tensor:
    """A number to take gradients of, from what a network returns.

    Args:
        returned (Any): Losses are summed; of outputs it is half the sum of
            squares.
        score (str): Name of the score that asks, for the error text.

    Raises:
        PruningError: If nothing of it has a gradient.
    """
    parts = [
        # The gradient of half the squares is the output itself.
        leaf if leaf.dim() == 0 else leaf.square().sum() / 2
        for leaf in tree_leaves(returned)
        if isinstance(leaf, Tensor) and leaf.requires_grad
    ]
    if not parts:
        raise PruningError(
            f'score={score}: what a calibration batch returns has no '
            'gradient. Let it return losses or outputs, without no_grad()'
        )
    return torch.stack(parts).sum()
