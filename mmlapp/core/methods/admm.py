# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Weights are pulled towards the nearest network within the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..errors import PruningError
from ..numbers import check_number
from ..score.group_scores import score_name
from ..score.normalise import normalised
from .added_loss import AddedLoss
from .base import Method, register_method
from .budget import snap
from .channel_costs import COST_TERMS
from .channel_tensors import ChannelTensor, channel_tensors, energies
from .movement import Movement
from .ranking import refuse_negative

if TYPE_CHECKING:
    from ..pruner import Pruner


class HalfEnergy(Function):
    r"""Returns :math:`\frac12 \lVert W - Z + U \rVert^2` of all tensors.

    The gradient is :math:`W - Z + U`. Written by hand, for a network has
    hundreds of tensors, which a GPU is asked to work on at once.
    """

    @staticmethod
    def forward(
        ctx: Any, z: list[Tensor], u: list[Tensor], *weights: Tensor
    ) -> Tensor:
        """Returns a scalar.

        Args:
            ctx (Any): Autograd context.
            z (list[Tensor]): One of the shape of each weight.
            u (list[Tensor]): Likewise.
            *weights (Tensor): All weights.
        """
        apart = torch._foreach_sub(weights, z)
        torch._foreach_add_(apart, u)
        ctx.save_for_backward(*apart)
        norms = torch.stack(torch._foreach_norm(apart))
        return 0.5 * norms.square().sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the weights."""
        pulls = torch._foreach_mul(ctx.saved_tensors, grads[0])
        return None, None, *pulls


@register_method('admm')
class ADMM(Method):
    r"""ADMM pruning (arXiv 1804.03294, 1810.07378) with a cost budget.

    Training minimises :math:`f(W)` subject to :math:`W \in S`, the networks
    within the budget. A part of the loss, :math:`\frac{\rho}{2} \lVert W - Z
    + U \rVert^2`, pulls the weights that emit the channels; now and then

    .. math:: Z \leftarrow \Pi_S(W + U), \quad U \leftarrow U + W - Z.

    The projection :math:`\Pi_S` zeroes channels, those that the exact budget
    removes when it ranks by :math:`\lVert W + U \rVert^2`, normalised within
    each group as the pruner was asked to. It stands in the place of the
    papers' rates, set for each layer by hand. Of one group it finds the
    nearest network; of several, with ``cost='divide'`` and norms as they
    are, one that is near it.

    The phase has rounds, each to a smaller network: the cost falls by the
    same factor in each. In a round all channels that it began with live. At
    its end those that the projection of W removes are cut, and the next one
    begins with :math:`Z = \Pi_S(W)`, :math:`U = 0`.

    Args:
        rho (float): :math:`\rho`, strength of the pull. The weights must
            have time to answer it between two updates: with plain SGD the
            pull alone takes a condemned weight towards zero by the factor
            :math:`e^{-\rho\,lr}` in each step. Defaults to 0.01.
        rounds (int): How many there are, of the same length. Defaults to 3.
        updates (int): Updates of Z and U in each round, the last of which
            ends it. Defaults to 4.
        cost (str, optional): Term of the cost by which the squared norm is
            weighed, as in :class:`Ranking`. Defaults to None.

    Raises:
        PruningError: If an argument lies outside its range.

    Examples:
        >>> from mmlapp.core import attach
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3)
        ... )
        >>> images = torch.rand(1, 3, 9, 9)
        >>> method = dict(type='admm', rounds=1, updates=2)
        >>> pruner = attach(net, images, method=method)
        >>> optimizer = torch.optim.SGD(net.parameters(), 0.1)
        >>> pruner.begin({'flops': 0.5}, steps=4)
        >>> for _ in range(4):
        ...     optimizer.zero_grad()
        ...     (net(images).square().mean() + pruner.loss()).backward()
        ...     optimizer.step()
        ...     pruner.step()
        >>> pruner.keep_ratios()
        {'0': 0.5}
    """

    adds_loss = True

    def __init__(
        self,
        rho: float = 0.01,
        rounds: int = 3,
        updates: int = 4,
        cost: str | None = None,
    ) -> None:
        super().__init__()
        check_number('method admm rho', rho, above=0)
        check_number('method admm rounds', rounds, least=1, whole=True)
        check_number('method admm updates', updates, least=1, whole=True)
        self.rho, self.rounds, self.updates = rho, rounds, updates
        self.cost = cost
        self.term = None if cost is None else COST_TERMS[cost]
        self.parts: list[ChannelTensor] = []
        self.pull, self.movement = AddedLoss('admm'), Movement('admm')

    def setup(self, pruner: Pruner) -> None:
        """Makes Z and U, one of each per parameter."""
        name = score_name(pruner.scorer.score)
        if name != 'l2':
            raise PruningError(
                f'score={name}: method admm ranks by the norms of W + U. '
                'Leave score out'
            )
        if self.term is not None:
            scores = normalised(pruner.scorer.normalise, torch.arange(3.0))
            refuse_negative(f'method admm cost={self.cost!r}', scores)
        self.parts = channel_tensors(pruner.groups)
        for number, part in enumerate(self.parts):
            # Parameters in half precision would lose what U gathers.
            blank = torch.zeros_like(part.stored(), dtype=torch.float32)
            self.register_buffer(f'z{number}', blank.detach())
            self.register_buffer(f'u{number}', blank.detach().clone())

    def check(self, steps: int) -> None:
        """Refuses a phase with fewer steps than updates."""
        if (wanted := self.rounds * self.updates) > steps:
            raise PruningError(
                f'method admm rounds={self.rounds}, updates={self.updates}: '
                f'a phase of {steps} steps has no room for {wanted} updates. '
                'Make the phase longer, or take fewer'
            )

    @torch.no_grad()
    def begin(self, pruner: Pruner) -> Tensor:
        """Starts the first round with all channels."""
        self.pull.begin(part.stored() for part in self.parts)
        self.movement.begin()
        self._look_at_moves()
        gate = super().begin(pruner)
        self._start(pruner, 1, gate > 0)
        return gate

    def loss(self, pruner: Pruner) -> Tensor:
        r"""Returns the pull, of gradient :math:`\rho (W - Z + U)`."""
        pairs = zip(self.parts, self.weights(), strict=True)
        weights = [part.gated(w) for part, w in pairs]
        energy: Tensor = HalfEnergy.apply(self.z, self.u, *weights)
        return self.pull.watch(self.rho * energy)

    def step(self, pruner: Pruner) -> Tensor:
        """Updates Z and U, or ends a round, if it is time to.

        Raises:
            PruningError: If the loss of the pruner was not added.
        """
        self.pull.check()
        kept = pruner.mask
        done = self._updates_after(pruner, 0)
        if done > self._updates_after(pruner, 1):
            self._look_at_moves()
            number, inside = divmod(done, self.updates)
            if inside:
                self._update(pruner, number + 1)
            else:
                kept = self.project(pruner, self.weights(), number, kept)
                if number < self.rounds:
                    self._start(pruner, number + 1, kept)
        return kept.to(pruner.gate.dtype)

    def ranking(self, pruner: Pruner) -> Tensor:
        """Returns the importance of the weights, as at the end of a round."""
        return self.importance(pruner, self.weights(), pruner.mask)

    def by_group(self, pruner: Pruner) -> dict[str, Tensor]:
        """Shows how far the weights are from Z, beside their own norm."""
        pairs = zip(self.weights(), self.z, strict=True)
        apart = self._energies([w - z for w, z in pairs], pruner)
        whole = self._energies(self.weights(), pruner)
        # [channels] -> [groups]
        apart, whole = pruner.parts.sum(apart), pruner.parts.sum(whole)
        return {'residual': (apart / whole.clamp_min(1e-30)).sqrt().float()}

    # What the state is made of, in the order of the parameters.

    @property
    def z(self) -> list[Tensor]:
        """Z of every parameter, of its shape."""
        return [self.get_buffer(f'z{n}') for n in range(len(self.parts))]

    @property
    def u(self) -> list[Tensor]:
        """U of every parameter, of its shape."""
        return [self.get_buffer(f'u{n}') for n in range(len(self.parts))]

    def weights(self) -> list[Tensor]:
        """Returns the parameters W past any mask, float32."""
        return [part.stored().float() for part in self.parts]

    # The projection of W + U on the networks within the budget.

    def importance(
        self, pruner: Pruner, tensors: Sequence[Tensor], living: Tensor
    ) -> Tensor:
        """Returns what the budget ranks by, ``[channels]``.

        Args:
            pruner (Pruner): Of the network.
            tensors (Sequence[Tensor]): One of the shape of each parameter.
            living (Tensor): Those that were not cut in former rounds, bool
                ``[channels]``.
        """
        norms = self._energies(tensors, pruner).float()
        importance = pruner.scorer.normalise(norms, pruner.parts)
        if self.term is not None:
            importance = self.term(pruner, importance)
        # Below all others, whatever the normalisation.
        return torch.where(living, importance, importance.amin() - 1)

    def project(
        self,
        pruner: Pruner,
        tensors: Sequence[Tensor],
        number: int,
        living: Tensor,
    ) -> Tensor:
        """Returns which channels are left within the budget of a round.

        Args:
            pruner (Pruner): Of the network.
            tensors (Sequence[Tensor]): One of the shape of each parameter.
            number (int): Of the round, from 1 on.
            living (Tensor): As in :meth:`importance`.

        Returns:
            Tensor: Bool, ``[channels]``; the projection has zeros elsewhere.
        """
        # Equal factors: F^(1/R), F^(2/R), ..., F.
        target = {
            name: value ** (number / self.rounds)
            for name, value in pruner.progress.target.items()
        }
        importance = self.importance(pruner, tensors, living)
        kept = snap(
            pruner.budget(target),
            # What is spared at the end is not pulled to zero before.
            pruner.spared_first(importance, living),
            pruner.host_parts.owner,
            pruner.floors,
            pruner.divisors,
        )
        # Where nothing else fits it would fill up with what was cut.
        return kept & living

    # What a step consists of: norms of channels, and which update is due.

    def _energies(self, tensors: Sequence[Tensor], pruner: Pruner) -> Tensor:
        return energies(self.parts, tensors, len(pruner.gate)).detach()

    def _updates_after(self, pruner: Pruner, before: int) -> int:
        """Updates that are due until some steps before this one."""
        # Update k of n comes at step k * steps / n, rounded up.
        total = self.rounds * self.updates
        progress = pruner.progress
        return (progress.done - before) * total // progress.steps

    def _look_at_moves(self) -> None:
        """Warns where the optimizer does not know what is pulled."""
        triples = zip(self.parts, self.z, self.u, strict=True)
        learning = [each for each in triples if each[0].stored().requires_grad]
        weights = [part.stored().float() for part, _, _ in learning]
        pulls = [
            part.gated(part.stored().float() - z + u)
            for part, z, u in learning
        ]
        self.movement.look(weights, pulls)

    def _start(self, pruner: Pruner, number: int, living: Tensor) -> None:
        """Z is the projection of W, U is zero."""
        weights = self.weights()
        kept = self.project(pruner, weights, number, living)
        self._set_z(weights, kept)
        for u in self.u:
            u.zero_()

    def _update(self, pruner: Pruner, number: int) -> None:
        """Z is the projection of W + U, U gathers what is left."""
        weights = self.weights()
        pairs = zip(weights, self.u, strict=True)
        sums = [w + u for w, u in pairs]
        kept = self.project(pruner, sums, number, pruner.mask)
        self._set_z(sums, kept)
        state = zip(self.parts, self.u, sums, self.z, strict=True)
        for part, u, total, z in state:
            u.copy_(part.gated(total - z))

    def _set_z(self, tensors: Sequence[Tensor], kept: Tensor) -> None:
        for part, z, tensor in zip(self.parts, self.z, tensors, strict=True):
            z.copy_(part.gated(tensor, kept))
