# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a classifier says without each channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import PruningError
from ..numbers import check_number
from .base import Score, ScoreContext, register_score
from .lanes import Lanes

# Bytes of the largest map when several copies of a batch run at once. A CPU
# loses more by a map that its cache does not hold than it gains by a forward
# less; elsewhere about three such maps, less than a gigabyte, are in memory.
ON_CPU, LARGEST = 2**21, 2**28


@register_score('kl_divergence')
class KLDivergence(Score):
    r"""Change of the predictions without a channel (CURL, 1911.08114).

    :math:`\overline{\mathrm{KL}(q \| p)} = \overline{\sum_k q_k
    \log(q_k / p_k)}` over calibration images, with the probabilities p of
    the dense network and q of the one without the channel. Every batch runs
    once for each channel: costly, once. Where batches are small, several
    channels share a forward, each on a copy of the batch. It means the same
    in every layer: ``normalisation='none'``.

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
        """Runs the batches without each channel, several at once."""
        pruner: Any = model.pruner
        count = len(pruner.gate)
        total, images = torch.zeros_like(pruner.gate.double()), 0
        lanes = Lanes(model, count)
        for number, run in enumerate(batches):
            batch = Batch(pruner, lanes, run)
            images += len(batch.dense)
            done = 0
            for channels, masked in batch.without():
                total[channels] += divergence(masked, batch.dense)
                done += len(channels)
                self.report((number + done / count) / self.batches)
        # Rounded, a divergence of nothing may be a little less than nothing.
        mean = (total / max(images, 1)).clamp_min(0)
        self.scores = _by_layer(pruner, mean)

    def __call__(self, context: ScoreContext) -> Tensor:
        """Returns what the batches told."""
        return self.scores[context.name]


class Batch:
    """What the network says of one batch, with all channels and without.

    Args:
        pruner (Pruner): Of the network.
        lanes (Lanes): Of the network.
        run (Callable): Runs it.

    Attributes:
        dense (Tensor): Log-probabilities, ``[images, classes]``.
        width (int): How many copies of the batch run at once.
    """

    def __init__(
        self, pruner: Any, lanes: Lanes, run: Callable[[], Any]
    ) -> None:
        self.pruner, self.lanes, self.run = pruner, lanes, run
        with largest_output() as largest:
            self.dense = log_probabilities(run())
        on_cpu = self.dense.device.type == 'cpu'
        # As many copies as keep the largest map below the limit.
        self.width = max((ON_CPU if on_cpu else LARGEST) // largest[0], 1)

    def without(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields all channels, and what is said without each.

        Before lanes are used, two channels of every group run in lanes and
        alone; of groups in which both disagree all channels run alone.

        Yields:
            tuple[Tensor, Tensor]: ``[channels]`` and log-probabilities,
            ``[channels, images, classes]``.
        """
        left = torch.ones(len(self.pruner.gate), dtype=torch.bool)
        if self.width > 1 and not self.lanes.compared:
            tried = self._tried()
            if len(tried):
                yield tried, self._compared(tried)
            left[tried] = False
            self.lanes.compared = True
        together = left & self.lanes.possible & (self.width > 1)
        for channels in pieces(together, self.width):
            yield channels, self.together(channels)
        for channels in pieces(left & ~together, 1):
            yield channels, self.alone(int(channels))[None]

    def _tried(self) -> Tensor:
        """First and last channel of every group that may run in a lane.

        Two, for a copy of the batch alone agrees with itself.
        """
        possible = self.lanes.possible.nonzero()[:, 0]
        group = self.pruner.group.cpu()[possible]
        ends = [
            possible[group == number][[0, -1]] for number in group.unique()
        ]
        return torch.cat(ends).unique() if ends else possible

    def _compared(self, tried: Tensor) -> Tensor:
        """What is said without some channels, each alone."""
        masked = torch.stack([self.alone(int(c)) for c in tried])
        agree = torch.zeros(len(tried), dtype=torch.bool)
        # What a forward does with a larger batch is not known before.
        with suppress(Exception):
            parts = [self.together(c) for c in tried.split(self.width)]
            near = torch.isclose(torch.cat(parts), masked, 1e-3, 1e-4)
            agree = near.flatten(1).all(1).cpu()
        # Of the groups of those that disagreed, [channels]: all run alone.
        wrong = self.pruner.group[tried[~agree]]
        self.lanes.possible &= ~torch.isin(self.pruner.group, wrong).cpu()
        return masked

    def alone(self, channel: int) -> Tensor:
        """Returns what is said without a channel, ``[images, classes]``.

        Args:
            channel (int): The channel.
        """
        gate = self.pruner.gate
        former = gate[channel].clone()
        gate[channel] = 0
        try:
            return log_probabilities(self.run())
        finally:
            gate[channel] = former

    def together(self, channels: Tensor) -> Tensor:
        """Returns what is said without each of some channels.

        Args:
            channels (Tensor): ``[lanes]``.

        Returns:
            Tensor: ``[lanes, images, classes]``.
        """
        images = len(self.dense)
        channels = channels.to(self.pruner.gate.device)
        with self.lanes.without(channels, images):
            found = log_probabilities(self.run())
        return found.view(len(channels), images, -1)


def divergence(masked: Tensor, dense: Tensor) -> Tensor:
    """Sums of the divergence over images, ``[channels]``.

    Args:
        masked (Tensor): Log-probabilities without each channel,
            ``[channels, images, classes]``.
        dense (Tensor): With all, ``[images, classes]``.
    """
    # sum_k q_k (log q_k - log p_k), q without the channel: the sum over images
    # and classes of [channels, images, classes].
    return (masked.exp() * (masked - dense)).sum((1, 2))


def pieces(chosen: Tensor, size: int) -> Iterator[Tensor]:
    """Yields where a mask is true, some at a time.

    Args:
        chosen (Tensor): Bool, ``[channels]``.
        size (int): How many at most.
    """
    found = chosen.nonzero()[:, 0]
    # Of nothing there would be one part, of nothing.
    yield from found.split(size) if len(found) else ()


@contextmanager
def largest_output() -> Iterator[list[int]]:
    """Notes bytes of the largest tensor that a module puts out meanwhile.

    Yields:
        list[int]: They, once they are known.
    """
    largest = [1]

    def note(module: nn.Module, args: Any, output: Any) -> None:
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                largest[0] = max(largest[0], leaf.nbytes)

    handle = nn.modules.module.register_module_forward_hook(note)
    try:
        yield largest
    finally:
        handle.remove()


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
