# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The interface of an importance score: how much a channel matters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from ..choices import Choices


@dataclass(frozen=True)
class ChannelWeights:
    """Weights that belong to the channels of a group, detached.

    Args:
        weights (Tensor): Those of every index of a dimension, ``[M, D]``.
        channels (Tensor): Channel of the group at every index, -1 for none;
            ``[M]``. A channel may stand at several ones.
    """

    weights: Tensor
    channels: Tensor


@dataclass(frozen=True)
class ScoreContext:
    """What a score may look at: one layer's output channels, detached.

    Args:
        filters (Tensor): Weights that emit each channel, shape ``[N, D]``,
            those of a filter in the order in which they lie in memory;
            float32 or wider, as all numbers here.
        gradient (Tensor, optional): Gradient of the task loss with respect
            to ``filters``, same shape; None before the first backward.
        scale (Tensor, optional): Scale of the norm that follows the layer,
            shape ``[N]``; None if no affine norm does.
        harm (Tensor, optional): Mean over steps of the squared gradient of
            the task loss by the gate, shape ``[N]``; None before the first
            backward, or if the score does not ask for it.
        name (str): Qualified name of the layer. Defaults to none.
        module (nn.Module, optional): The layer itself. Defaults to None.
        shift (Tensor, optional): Shift of the norm that follows the layer,
            shape ``[N]``; None if none does or it has none.
        channels (Tensor, optional): Channel of the group at every row of
            ``filters``, -1 for none; ``[N]``.
        size (int): Channels of the group. Defaults to 0: one for each row.
        emitters (Sequence[ChannelWeights]): What emits the channels of the
            group: filters, and scales of the norms behind them; none if the
            score does not ask for it.
        readers (Sequence[ChannelWeights]): What reads them, likewise.
    """

    filters: Tensor
    gradient: Tensor | None = None
    scale: Tensor | None = None
    harm: Tensor | None = None
    name: str = ''
    module: nn.Module | None = None
    shift: Tensor | None = None
    channels: Tensor | None = None
    size: int = 0
    emitters: Sequence[ChannelWeights] = ()
    readers: Sequence[ChannelWeights] = ()


class Score(ABC):
    """An importance score with settings, or one that asks for data.

    A score that needs no more than the weights is simply a function of a
    :class:`ScoreContext`, see :func:`register_score`.

    Attributes:
        batches (int): How many calibration batches :meth:`prepare` wants,
            once, before the pruning phase. Defaults to 0: none.
        refresh (int): Optimizer steps between two computations in the
            phase; 0 computes once, when the phase begins. Defaults to 1.
        outputs (bool): Whether calibration batches are to return outputs of
            the network and no losses. Defaults to False.
        uses_gradient (bool): Whether it asks for the harm of channels, by
            the gradient of the task loss. Defaults to False.
        memory (float): Steps over which the harm is averaged, as a share of
            the phase. Defaults to 0.1.
        all_weights (bool): Whether it asks for all weights that emit and
            read the channels of a group. Defaults to False.
        by_channel (bool): Whether it knows whole channels alone, such as by
            what a layer puts out, and nothing of stripes of a filter.
            Defaults to False.

    Examples:
        >>> import torch
        >>> from mmlapp.core import Score, attach
        >>> class Spread(Score):
        ...     refresh = 100  # the weights of a layer change slowly
        ...
        ...     def __call__(self, context):
        ...         return context.filters.std(dim=1)  # [channels]
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> pruner = attach(net, torch.rand(1, 3, 9, 9), score=Spread())
        >>> pruner.begin({'flops': 0.5}, steps=1)
        >>> pruner.step()
        >>> int(pruner.mask.sum())
        4
    """

    batches = 0
    refresh = 1
    outputs = False
    by_channel = False
    uses_gradient = False
    memory = 0.1
    all_weights = False

    def prepare(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        batches: Iterable[Callable[[], Any]],
    ) -> None:
        """Looks at calibration batches.

        Args:
            model (nn.Module): The network, in evaluation mode; gradients
                that this leaves behind are removed.
            layers (Mapping[str, nn.Module]): Those that will be scored, by
                name.
            batches (Iterable[Callable]): Each runs the network on one batch
                and returns what it returns; with MMEngine its losses, or
                what it returns in mode ``tensor`` if ``outputs`` is set.
        """
        return None

    def report(self, done: float) -> None:
        """Called by a :meth:`prepare` that takes long; a trainer may show it.

        Args:
            done (float): Share of the work, in [0, 1].
        """
        return None

    @abstractmethod
    def __call__(self, context: ScoreContext) -> Tensor:
        """Returns the importance of every channel of a layer, ``[N]``.

        Args:
            context (ScoreContext): The layer.
        """


class FunctionScore(Score):
    """A function as a score.

    Args:
        function (Callable): From a context to ``[N]``.
        name (str, optional): How messages call it. Defaults to None: as the
            function is called.
    """

    def __init__(
        self,
        function: Callable[[ScoreContext], Tensor],
        name: str | None = None,
    ) -> None:
        self.function = function
        self.name = name or str(getattr(function, '__name__', function))

    def __call__(self, context: ScoreContext) -> Tensor:
        """Calls the function."""
        return self.function(context)


SCORES: Choices[Callable[..., Score]] = Choices('score', Score)
Entry = TypeVar('Entry', bound=Callable[..., Any])


def register_score(name: str) -> Callable[[Entry], Entry]:
    """Adds an importance score under a name that configs can use.

    Args:
        name (str): The name of a function of a :class:`ScoreContext`, or of
            a subclass of :class:`Score`.

    Examples:
        >>> @register_score('doc_max')
        ... def largest_weight(context):
        ...     return context.filters.abs().amax(dim=1)
        >>> @register_score('doc_power')
        ... class Power(Score):
        ...     def __init__(self, exponent=1.0):
        ...         self.exponent = exponent
        ...
        ...     def __call__(self, context):
        ...         return context.filters.abs().sum(1) ** self.exponent
    """

    def add(entry: Entry) -> Entry:
        is_class = isinstance(entry, type)
        SCORES.register(name)(
            entry if is_class else lambda: FunctionScore(entry, name)
        )
        return entry

    return add
