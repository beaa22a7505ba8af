# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the scores of a channel group come from: its layers' weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat

import torch
from torch import Tensor, nn

from ..errors import PruningError
from ..numbers import check_per_channel
from .base import (
    SCORES,
    ChannelWeights,
    FunctionScore,
    Score,
    ScoreContext,
)

# Of every layer, before anything was noted.
UNKNOWN: Iterator[Tensor | None] = repeat(None)


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
        norm_goes (bool): Whether the norm loses the channels, too. Defaults
            to True.
    """

    name: str
    module: nn.Module
    dims: tuple[int, ...]
    channels: Tensor
    norm: nn.Module | None = None
    weight: str = 'weight'
    scale: str = 'weight'
    shift: str = ''
    norm_goes: bool = True

    def channels_on(self, device: torch.device) -> Tensor:
        """Returns the channels on a device, where they stay.

        Args:
            device (torch.device): Of the weights.
        """
        # One without values would take theirs away.
        if self.channels.device != device and device.type != 'meta':
            self.channels = self.channels.to(device)
        return self.channels


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
        block (int): Channels of every tensor that each of its channels
            stands for, such as the width of a head. Defaults to 1.
        sole_path (bool): Whether information cannot go around it. Defaults
            to False.
    """

    name: str
    size: int
    layers: list[Layer]
    floor: int = 1
    readers: list[Layer] = field(default_factory=list)
    block: int = 1
    sole_path: bool = False

    def weights(self) -> list[Tensor]:
        """Returns what its layers learn, of those that have a weight."""
        found = [la.module._parameters.get(la.weight) for la in self.layers]
        return [weight for weight in found if weight is not None]


def contexts(
    group: GroupInfo,
    score: Score,
    harm: Iterator[Tensor | None] = UNKNOWN,
) -> Iterator[tuple[Layer, ScoreContext]]:
    """Yields the layers of a group, each with what a score may look at.

    Args:
        group (GroupInfo): The group.
        score (Score): Importance score of one layer.
        harm (Iterator): Of the rows of every layer, each ``[N]`` or None,
            the default.
    """
    # Of the whole group, for each of its layers alike.
    emitters = _emitters(group) if score.all_weights else []
    readers = [rows(la) for la in group.readers if score.all_weights]
    for layer, part in zip(group.layers, harm, strict=False):
        context = layer_context(layer, part)
        if score.all_weights:
            context = replace(
                context, size=group.size, emitters=emitters, readers=readers
            )
        yield layer, context


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


def checked(score: Score, context: ScoreContext) -> Tensor:
    """What a score says of a layer, ``[N]``.

    Args:
        score (Score): The score.
        context (ScoreContext): The layer.

    Raises:
        PruningError: If it is not one number per channel.
    """
    name = f'score={score_name(score)} of {context.name}'
    return check_per_channel(name, score(context), len(context.filters))


def score_name(score: Score) -> str:
    """How messages call a score: as it is registered, if it is.

    Args:
        score (Score): The score.
    """
    if isinstance(score, FunctionScore):
        return score.name
    kind = type(score)
    return next((n for n in SCORES if SCORES[n] is kind), kind.__name__)


def refuse_stripes(what: str, groups: Sequence[GroupInfo]) -> None:
    """Refuses what only whole channels have.

    Args:
        what (str): Name and value of the setting that needs it.
        groups (Sequence[GroupInfo]): All groups.

    Raises:
        PruningError: With the first layer of which parts of filters go.
    """
    for group in groups:
        for layer in group.layers:
            if len(layer.dims) > 1:
                raise PruningError(
                    f'{what} knows whole channels alone, and {layer.name} '
                    "loses stripes of its filters. Take unit='channels', or "
                    'choose another one'
                )


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
    found = (contexts(group, score) for group in groups)
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
        harm (Tensor, optional): Of its rows, ``[N]``. Defaults to None.
    """
    # Masked channels are scored too: they may come back.
    weight = stored_weight(layer)
    norm = {} if layer.norm is None else layer.norm._parameters
    scale, shift = norm.get(layer.scale), norm.get(layer.shift)

    filters = rows_of(weight, weight, layer.dims)

    def spread(found: Tensor | None) -> Tensor | None:
        if found is None:
            return None
        # Parts of a channel share its norm: [out] -> [N].
        times = len(filters) // len(found)
        rows = widened(found.detach())
        return rows if times == 1 else rows.repeat_interleave(times)

    gradient = weight.grad
    if gradient is not None:
        gradient = rows_of(gradient, weight, layer.dims)
    return ScoreContext(
        filters,
        gradient,
        spread(scale),
        harm,
        layer.name,
        layer.module,
        spread(shift),
        layer.channels_on(filters.device),
    )


def rows(layer: Layer) -> ChannelWeights:
    """The weights of a layer by the channels of a group, past any mask.

    Args:
        layer (Layer): With the dimensions that count the channels.
    """
    weight = stored_weight(layer)
    weights = rows_of(weight, weight, layer.dims)
    return ChannelWeights(weights, layer.channels_on(weights.device))


def stored_weight(layer: Layer) -> Tensor:
    """The weight of a layer as it is stored.

    Args:
        layer (Layer): The layer.

    Raises:
        PruningError: If it was taken away.
    """
    stores = layer.module._parameters, layer.module._buffers
    weight = next((s[layer.weight] for s in stores if layer.weight in s), None)
    if weight is None:
        raise PruningError(
            f'{layer.name} has no {layer.weight} any more, which scores are '
            'computed from. Add what takes it away, such as a '
            'parametrization, before attach'
        )
    return weight


def widened(tensor: Tensor) -> Tensor:
    """Returns a tensor in float32 or wider.

    Half precision has no room for sums of squares.

    Args:
        tensor (Tensor): Of any shape.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def rows_of(tensor: Tensor, like: Tensor, outer: tuple[int, ...]) -> Tensor:
    """Flattens dimensions to one that counts parts and one for the rest.

    Args:
        tensor (Tensor): Of the shape of a weight.
        like (Tensor): The weight, whose memory decides about the order.
        outer (tuple[int, ...]): Dimensions that count the parts.

    Returns:
        Tensor: Detached, ``[N, D]``, float32 or wider.
    """
    # Dimensions as they lie in memory: flattening then copies nothing.
    # [.., N, ..] -> [N, D], the largest stride first.
    inner = [d for d in range(like.dim()) if d not in outer]
    inner.sort(key=like.stride, reverse=True)
    ordered = widened(tensor.detach())
    if (*outer, *inner) != tuple(range(like.dim())):
        ordered = ordered.permute(*outer, *inner)
    return ordered.flatten(0, len(outer) - 1).flatten(1)
