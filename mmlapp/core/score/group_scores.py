# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores of a channel group, from the live weights of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor, nn

from ..errors import PruningError
from .base import ChannelWeights, Score, ScoreContext


@dataclass
class Layer:
    """Where the scores of a group come from.

    Args:
        name (str): Qualified name of the module.
        module (nn.Module): The convolution or linear layer.
        dims (tuple[int, ...]): Dimensions of its weight that count the
            parts: the output's alone for channels.
        channels (Tensor): Channel of the group at every index of those
            dimensions, flattened; -1 for none.
        norm (nn.Module, optional): The owner of the scale of the norm that
            follows.
        weight (str): Name of the weight in the module. Defaults to
            ``weight``.
        scale (str): Name of the scale in its owner. Defaults to ``weight``.
        shift (str): Name of the shift there. Defaults to none.
    """

    name: str
    module: nn.Module
    dims: tuple[int, ...]
    channels: Tensor
    norm: nn.Module | None = None
    weight: str = 'weight'
    scale: str = 'weight'
    shift: str = ''


@dataclass
class GroupInfo:
    """What the running pruning needs to know of a group.

    Args:
        name (str): Name of the first layer.
        size (int): Number of channels.
        layers (list[Layer]): Its producers.
        floor (int): Fewest channels to keep.
        readers (list[Layer]): Those that read its channels, with the
            dimension of their weight that counts them.
    """

    name: str
    size: int
    layers: list[Layer]
    floor: int = 1
    readers: list[Layer] = field(default_factory=list)


def group_scores(
    group: GroupInfo,
    score: Score,
    normalise: Callable[[Tensor], Tensor],
    harm: Tensor | None = None,
) -> Tensor:
    """Normalised scores of a group: the mean over its layers.

    The mean is normalised once more: means of ranks crowd around one half,
    and a threshold would run through a group of many layers sooner than
    through one of a single layer.

    Args:
        group (GroupInfo): The group.
        score (Score): Importance score of one layer.
        normalise (Callable): Makes scores of different layers comparable.
        harm (Tensor, optional): Of its channels, ``[group.size]``. Defaults
            to None.

    Returns:
        Tensor: Shape ``[group.size]``, float32.
    """
    parts = []
    for layer, context in _contexts(group, score, harm):
        raw = _checked(score, context).float()
        index = layer.channels.to(raw.device)
        owned = index >= 0
        index, raw = index[owned], raw[owned]
        # A channel may stand at several indices of a layer: their mean. Sum
        # and count, [indices] -> [channels of the group].
        blank = raw.new_zeros(group.size)
        count = blank.index_add(0, index, torch.ones_like(raw))
        total = blank.index_add(0, index, raw)
        parts.append(_openly(normalise, total / count.clamp_min(1)))
    return _openly(normalise, torch.stack(parts).mean(dim=0))


def _contexts(
    group: GroupInfo, score: Score, harm: Tensor | None = None
) -> Iterator[tuple[Layer, ScoreContext]]:
    """Layers of a group, each with what a score may look at."""
    emitters = _emitters(group) if score.all_weights else []
    readers = [rows(la) for la in group.readers if score.all_weights]
    for layer in group.layers:
        context = layer_context(layer, harm)
        yield layer, replace(context, emitters=emitters, readers=readers)


def _emitters(group: GroupInfo) -> list[ChannelWeights]:
    """Filters of a group, and scales of the norms behind them, each once."""
    found, scales = [], {}
    for layer in group.layers:
        found.append(rows(layer))
        scale = layer_context(layer).scale
        if scale is not None:
            # [N] -> [N, 1]: of every channel one more weight.
            weights = ChannelWeights(scale[:, None], found[-1].channels)
            scales[layer.norm, layer.scale] = weights
    return [*found, *scales.values()]


def _checked(score: Score, context: ScoreContext) -> Tensor:
    """What a score says of a layer, without the graph that it came from."""
    found = score(context)
    wanted = (len(context.filters),)
    if not isinstance(found, Tensor) or found.shape != wanted:
        shape = tuple(getattr(found, 'shape', ()))
        raise PruningError(
            f'score={score_name(score)} of {context.name}: expected a tensor '
            f'of shape {wanted}, one number per channel, got '
            f'{type(found).__name__} of shape {shape}'
        )
    return found.detach()


def score_name(score: Score) -> str:
    """How messages call a score."""
    function = getattr(score, 'function', None)
    return str(getattr(function, '__name__', type(score).__name__))


def _openly(normalise: Callable[[Tensor], Tensor], scores: Tensor) -> Tensor:
    """A rank would hide a NaN or an infinity: times zero, it stays."""
    return normalise(scores) + (scores * 0).sum()


def report_non_finite(
    groups: Sequence[GroupInfo], score: Score, step: int
) -> None:
    """Raises with the name of the first layer whose scores are not finite.

    Args:
        groups (Sequence[GroupInfo]): All groups.
        score (Score): Importance score of one layer.
        step (int): Step of the pruning phase, for the text.

    Raises:
        PruningError: If there is such a layer.
    """
    found = (_contexts(group, score) for group in groups)
    for layer, context in chain.from_iterable(found):
        if score(context).isfinite().all():
            continue
        word = '' if context.filters.isfinite().all() else 'not '
        raise PruningError(
            f'importance scores of {layer.name} are not finite (its weights '
            f'are {word}finite) at step {step} of the pruning phase. '
            'Training has diverged: lower the learning rate and resume from '
            'the last checkpoint'
        )


def layer_context(layer: Layer, harm: Tensor | None = None) -> ScoreContext:
    """What a score may look at, read past any mask.

    Args:
        layer (Layer): The layer.
        harm (Tensor, optional): Of the channels of its group,
            ``[group.size]``. Defaults to None.
    """
    weight = stored_weight(layer)
    norm = {} if layer.norm is None else layer.norm._parameters
    scale, shift = norm.get(layer.scale), norm.get(layer.shift)

    filters = rows_of(weight, weight, layer.dims)

    def spread(found: Tensor | None) -> Tensor | None:
        if found is None:
            return None
        # Parts of a channel share its norm: [out] -> [N].
        return found.detach().repeat_interleave(len(filters) // len(found))

    gradient = weight.grad
    if gradient is not None:
        gradient = rows_of(gradient, weight, layer.dims)
    if harm is not None:
        # [group.size] -> [N]; what belongs to no channel does no harm.
        index = layer.channels.to(harm.device)
        harm = torch.where(index >= 0, harm[index.clamp_min(0)], 0)
    return ScoreContext(
        filters,
        gradient,
        spread(scale),
        harm,
        layer.name,
        layer.module,
        spread(shift),
        layer.channels.to(filters.device),
    )


def rows(layer: Layer) -> ChannelWeights:
    """The weights of a layer by the channels of a group, past any mask.

    Args:
        layer (Layer): With the dimensions that count the channels.
    """
    weight = stored_weight(layer)
    weights = rows_of(weight, weight, layer.dims)
    return ChannelWeights(weights, layer.channels.to(weights.device))


def stored_weight(layer: Layer) -> Tensor:
    """The weight of a layer as it is stored.

    Args:
        layer (Layer): The layer.
    """
    stored = {**layer.module._buffers, **layer.module._parameters}
    weight = stored[layer.weight]
    assert weight is not None
    return weight


def rows_of(tensor: Tensor, like: Tensor, outer: tuple[int, ...]) -> Tensor:
    """Flattens dimensions to one that counts parts and one for the rest.

    Args:
        tensor (Tensor): Of the shape of a weight.
        like (Tensor): The weight, whose memory decides about the order.
        outer (tuple[int, ...]): Dimensions that count the parts.

    Returns:
        Tensor: Detached, ``[N, D]``.
    """
    # Dimensions as they lie in memory: flattening then copies nothing.
    # [.., N, ..] -> [N, D], the largest stride first.
    inner = [d for d in range(like.dim()) if d not in outer]
    inner.sort(key=like.stride, reverse=True)
    ordered = tensor.detach().permute(*outer, *inner)
    return ordered.flatten(0, len(outer) - 1).flatten(1)
