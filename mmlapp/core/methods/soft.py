# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Sampled masks that are learned by the norms (SCP, arXiv 2007.03938)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import PruningError
from ..numbers import check_number
from ..score.group_scores import GroupInfo, refuse_stripes, score_name
from ..score.weights import NOTHING, TINY
from .added_loss import AddedLoss
from .base import register_method
from .channel_tensors import global_layers
from .fixed_order import FixedOrder
from .norm_statistics import NormStatistics

if TYPE_CHECKING:
    from ..pruner import Pruner


# Of masks; what the paper's code rounds at is not known to us.
ALIVE = 0.5


@dataclass
class ChannelNorm:
    """A norm whose scale and shift belong to channels.

    Args:
        module (nn.Module): Owner of both.
        scale (str): Name of the scale.
        shift (str): Name of the shift.
        channels (Tensor): Global channel of every entry, -1 for none; ``[N]``.
    """

    module: nn.Module
    scale: str
    shift: str
    channels: Tensor

    def parameters(self) -> tuple[Tensor, Tensor]:
        """Returns scale and shift, float32."""
        scale, shift = self.stored()
        return scale.float(), shift.float()

    def stored(self) -> tuple[Tensor, Tensor]:
        """Returns scale and shift as they are."""
        scale = self.module._parameters[self.scale]
        shift = self.module._parameters[self.shift]
        assert scale is not None
        assert shift is not None
        return scale, shift

    def channels_on(self, device: torch.device) -> Tensor:
        """Returns the channels on a device, where they stay.

        Args:
            device (torch.device): Of the parameters.
        """
        # One without values would take theirs away.
        if self.channels.device != device and device.type != 'meta':
            self.channels = self.channels.to(device)
        return self.channels

    def add(self, total: Tensor, values: Tensor) -> Tensor:
        """Adds values of all entries to those of their channels.

        Args:
            total (Tensor): One per channel and one for none behind them,
                ``[channels + 1]``.
            values (Tensor): Shape ``[N]``.
        """
        index = self.channels_on(total.device)
        index = torch.where(index < 0, len(total) - 1, index)
        return total.index_add(0, index, values)


def channel_norms(groups: list[GroupInfo]) -> list[ChannelNorm]:
    """Returns the norms that lose channels with a layer, each once.

    Args:
        groups (list[GroupInfo]): All groups, in order.
    """
    found: dict[tuple[int, str], ChannelNorm] = {}
    for layer, channels in global_layers(groups):
        norm = layer.norm
        if norm is None or not layer.norm_goes or not layer.shift:
            continue
        scale = norm._parameters.get(layer.scale)
        if scale is None or scale.shape != channels.shape:
            continue
        part = ChannelNorm(norm, layer.scale, layer.shift, channels)
        known = found.setdefault((id(norm), layer.scale), part)
        # Groups may share a norm, each with entries of its own.
        known.channels = torch.where(channels >= 0, channels, known.channels)
    return list(found.values())


@register_method('soft')
class Soft(FixedOrder):
    r"""Operation-aware soft masks (after SCP, arXiv 2007.03938).

    Behind a norm with scale :math:`\gamma` and shift :math:`\beta` a channel
    is below :math:`\tau` with the probability :math:`\Phi`
    (``score='operation_aware'`` is :math:`1 - \Phi`). It is removed with
    the probability :math:`P = \sigma(k(x - c))`. In training each channel
    has, for each step, a mask sampled from a relaxed distribution,

    .. math:: m = \sigma\Big(\frac{k(c - x) + \log u - \log(1 - u)}{T}\Big),
              \quad u \sim U(0, 1),

    through which :math:`\gamma` and :math:`\beta` learn what the network
    wants; the loss gains :math:`\lambda \sum (\beta + 2|\gamma|)`. In
    evaluation, and at the end, a channel is there or not.

    The paper's sparsity follows from :math:`\lambda`, which is tuned, with
    c = 0.95. Here c follows the budget of the step: as many channels lie
    below it as the schedule allows. With ``normalisation='none'`` x is
    :math:`\Phi`; with ``rank``, the default, it is the rank of :math:`\Phi`
    in its group, in (0, 1), with the derivative of :math:`\Phi`, for the
    :math:`\Phi` of a fresh network lie so close together that nearly all
    masks would be undecided.

    Running statistics of a norm move in the steps in which a channel is
    there, with a mask above one half; that number is ours.

    Masks multiply the scale and the shift. Behind them a ReLU lets factors
    from 0 on through, so that this is the paper's mask after the activation.

    Args:
        weight (float): :math:`\lambda`. Defaults to 5e-5, the paper's for
            ResNets.
        sharpness (float): k. Defaults to 20.
        temperature (float): T. Defaults to 0.5.
        seed (int): Of the samples, equal on all processes. Defaults to 0.

    Raises:
        PruningError: If an argument lies outside its range.

    Examples:
        >>> from mmlapp.core import attach
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3),
        ...     nn.BatchNorm2d(8),
        ...     nn.ReLU(),
        ...     nn.Conv2d(8, 4, 3),
        ... )
        >>> images = torch.rand(2, 3, 9, 9)
        >>> pruner = attach(
        ...     net, images, method='soft', score='operation_aware'
        ... )
        >>> pruner.begin({'flops': 0.5}, steps=9)
        >>> bool((pruner.method.relaxed(pruner) > 0.9).all())
        True
        >>> pruner.loss().backward()
        >>> net[1].bias.grad.unique()
        tensor([5.0000e-05])
    """

    behind: Tensor
    cut: Tensor
    noise: Tensor
    adds_loss = True

    def __init__(
        self,
        weight: float = 5e-5,
        sharpness: float = 20.0,
        temperature: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_number('method soft weight', weight, above=0)
        check_number('method soft sharpness', sharpness, above=0)
        check_number('method soft temperature', temperature, above=0)
        check_number('method soft seed', seed, least=0, whole=True)
        self.weight, self.sharpness = weight, sharpness
        self.temperature, self.seed = temperature, seed
        self.norms: list[ChannelNorm] = []
        self.regulariser = AddedLoss('soft')
        self.statistics = NormStatistics()
        self.alive = torch.zeros(0)

    def setup(self, pruner: Pruner) -> None:
        """Finds the norms; makes the cut c, and a sample per channel."""
        _check_settings(pruner)
        self.norms = channel_norms(pruner.groups)
        if not self.norms:
            raise PruningError(
                'method soft: no norm with scale and shift goes with a '
                'prunable channel, so that nothing learns from its masks. '
                "Choose 'ranking' or another method"
            )
        count = torch.zeros(len(pruner.scores) + 1)
        for norm in self.norms:
            count = norm.add(count, torch.ones(len(norm.channels)))
        # Norms behind every channel, [channels]; no state.
        behind = count[:-1].clamp_min(1).to(pruner.scores.device)
        self.register_buffer('behind', behind, persistent=False)
        self.register_buffer('cut', torch.ones(()))
        self.register_buffer('noise', torch.zeros_like(pruner.scores))

    def begin(self, pruner: Pruner) -> Tensor:
        """All channels live, far below the cut."""
        self.regulariser.begin(
            value for norm in self.norms for value in norm.stored()
        )
        gate = super().begin(pruner)
        self.prepare(pruner, gate > 0)
        return gate

    def loss(self, pruner: Pruner) -> Tensor:
        r"""Returns :math:`\lambda \sum (\beta + 2|\gamma|)`."""
        total = super().loss(pruner)
        for norm in self.norms:
            scale, shift = norm.parameters()
            owned = norm.channels_on(scale.device) >= 0
            total = total + (owned * (shift + 2 * scale.abs())).sum()
        return self.regulariser.watch(self.weight * total)

    def relaxed(self, pruner: Pruner) -> Tensor:
        """Returns the masks of this step, ``[channels]``."""
        # Value of the rank, if it is one; derivative of Phi.
        phi = self.phi(pruner)
        x = 1 - pruner.scores + (phi - phi.detach())
        logit = self.sharpness * (self.cut - x) + self.noise
        masks = (logit / self.temperature).sigmoid()
        masks = torch.where(pruner.protected, 1.0, masks)
        self.statistics.note(norm.module for norm in self.norms)
        self.alive = masks.detach() > ALIVE
        return masks

    def step(self, pruner: Pruner) -> Tensor:
        """Cuts the order, and puts c where it was cut.

        Raises:
            PruningError: If the loss of the pruner was not added.
        """
        self.regulariser.check()
        self._keep_statistics()
        gate = super().step(pruner)
        self.prepare(pruner, gate > 0)
        return gate

    def _keep_statistics(self) -> None:
        """Norms know channels by the steps in which these were there."""
        if len(self.alive):
            # The last one is no channel, and always there: [channels + 1].
            alive = torch.cat([self.alive, self.alive.new_ones(1)])
            self.statistics.put_back(
                (norm.module, alive[norm.channels_on(alive.device)])
                for norm in self.norms
            )
            self.alive = self.alive[:0]

    def ranking(self, pruner: Pruner) -> Tensor:
        """Ranks by the score, :math:`1 - x`."""
        return pruner.scores

    def phi(self, pruner: Pruner) -> Tensor:
        r"""Returns :math:`\Phi`, differentiable; mean over the norms.

        Args:
            pruner (Pruner): Of the network.

        Returns:
            Tensor: ``[channels]``; zero where no norm is behind a channel.
        """
        total = pruner.scores.new_zeros(len(pruner.scores) + 1)
        for norm in self.norms:
            scale, shift = norm.parameters()
            # In standard deviations from the mean, over sqrt(2): [N].
            away = (NOTHING - shift) / (scale.abs() + TINY) / math.sqrt(2)
            total = norm.add(total, 1 - torch.erfc(away) / 2)
        return total[:-1] / self.behind

    def by_group(self, pruner: Pruner) -> dict[str, Tensor]:
        """Shows the mean of the masks without their noise."""
        logit = self.sharpness * (self.cut - 1 + pruner.scores)
        alive = logit.sigmoid()
        return {'alive': pruner.parts.mean(alive)}

    def prepare(self, pruner: Pruner, kept: Tensor) -> None:
        """Sets the cut, and the sample of all forwards of the next step.

        Args:
            pruner (Pruner): Of the network.
            kept (Tensor): What the budget keeps, bool ``[channels]``.
        """
        self.cut.copy_(self._between(pruner, kept)[0])
        self.noise.copy_(self._sample(pruner))

    def _between(self, pruner: Pruner, kept: Tensor) -> Tensor:
        """The x between what is kept and what is removed, ``[1]``."""
        order = (1 - pruner.scores.double()).sort().values
        # If all are kept, it lies as far above them as the paper's 0.95 above
        # the 0.52 of a fresh network: halfway to this one.
        order = torch.cat([order, order[-1:] + 2 * 0.43])
        number = kept.to(order.device).sum()[None]
        return (order[number - 1] + order[number]) / 2

    def _sample(self, pruner: Pruner) -> Tensor:
        """A logistic number for each channel, log u - log(1 - u)."""
        # By seed and step alone: equal on all processes.
        seed = self.seed + 1_000_003 * pruner.progress.done
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(len(pruner.gate), generator=generator)
        # Never 0 or 1, where it is infinite.
        return drawn.clamp(1e-6, 1 - 1e-6).logit()


def _check_settings(pruner: Pruner) -> None:
    """Refuses what would do nothing, or something else."""
    refuse_stripes('method soft', pruner.groups)
    name = score_name(pruner.scorer.score)
    if name != 'operation_aware':
        raise PruningError(
            f'score={name}: method soft learns the probability that '
            "score='operation_aware' ranks by. Set that one"
        )
    chosen = pruner.scorer.normalisation
    if chosen not in ('rank', 'none'):
        raise PruningError(
            f'normalisation={chosen!r}: method soft compares probabilities '
            "with a cut; expected 'rank' or 'none'"
        )
    if pruner.shrinks:
        raise PruningError(
            f'shrink={pruner.shrink!r}: method soft has masks between 0 and 1 '
            'itself. Leave shrink out'
        )
