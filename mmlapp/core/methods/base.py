# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The interface of a pruning method: who decides which channels live."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..choices import Choices
from .schedule import Schedule

if TYPE_CHECKING:
    from ..pruner import Pruner


class Method(nn.Module, ABC):
    """Decides on the gate, step by step.

    Its buffers are its state: the pruner saves and resumes them and compares
    them between processes. A buffer with one entry per group or per channel
    is compared layer by layer.

    Attributes:
        uses_gradient (bool): Whether it asks for the gradient of the task
            loss by the gate, which costs a product per masked parameter.
        adds_loss (bool): Whether :meth:`loss` must be added to the task
            loss.
        relaxes_evaluation (bool): Whether what :meth:`relaxed` returns holds
            in evaluation, too.
        shrink (int, str or Mapping): How condemned channels shrink unless
            ``attach`` is told, as its argument of that name. If not at once,
            :meth:`step` decides between 0 and 1 alone.
        min_keep (float, str or Mapping): Floors of the groups unless
            ``attach`` is told, as its argument of that name.
        ramp (float): Share of the phase after which it asks for the whole
            target.

    Examples:
        >>> class Keep(Method):
        ...     def setup(self, pruner):
        ...         pass
        ...
        ...     def step(self, pruner):
        ...         return torch.ones_like(pruner.scores)
        ...
        ...     def ranking(self, pruner):
        ...         return pruner.scores
    """

    uses_gradient = False
    adds_loss = False
    relaxes_evaluation = False
    shrink: int | str | Mapping[str, Any] = 1
    min_keep: float | str | Mapping[str, Any] = 0
    ramp = Schedule.ramp

    @abstractmethod
    def setup(self, pruner: Pruner) -> None:
        """Makes the buffers, once groups and channels are known.

        Args:
            pruner (Pruner): Of the network, before its first forward.
        """

    def check(self, steps: int) -> None:
        """Refuses a phase in which it could not do what it was asked to.

        Args:
            steps (int): Length of the phase in optimizer steps.

        Raises:
            PruningError: With the setting and the length.
        """
        return None

    def begin(self, pruner: Pruner) -> Tensor:
        """Starts the phase: all channels live.

        Args:
            pruner (Pruner): Its scores are those of the live weights.

        Returns:
            Tensor: The gate, float in [0, 1], ``[channels]``.
        """
        return torch.ones_like(pruner.scores)

    def loss(self, pruner: Pruner) -> Tensor:
        """Returns what is added to the task loss in the phase.

        Args:
            pruner (Pruner): Of the network.

        Returns:
            Tensor: Scalar; zero unless the method has one.
        """
        return torch.zeros((), device=pruner.scores.device)

    def relaxed(self, pruner: Pruner) -> Tensor | None:
        """Returns what a forward in training takes in place of the gate.

        Called before each one in the phase. Its gradient reaches whatever it
        was computed from. It must be above zero where the gate is.

        Args:
            pruner (Pruner): Of the network.

        Returns:
            Tensor or None: Shape ``[channels]``; None, the default, for the
            gate itself.
        """
        return None

    @abstractmethod
    def step(self, pruner: Pruner) -> Tensor:
        """Decides anew, right after a step of the optimizer.

        Args:
            pruner (Pruner): ``scores`` are those of the live weights,
                ``gradient`` is that of the task loss by the gate, mean over
                processes, or None where there is none; ``progress.done`` and
                ``targets()`` count this step already.

        Returns:
            Tensor: The gate, float in [0, 1], ``[channels]``.
        """

    @abstractmethod
    def ranking(self, pruner: Pruner) -> Tensor:
        """Returns the order in which the exact budget keeps channels.

        Args:
            pruner (Pruner): Of the network.

        Returns:
            Tensor: The larger, the longer it is kept; ``[channels]``.
        """

    def finish(self, pruner: Pruner) -> None:
        """Called when the phase has ended and the gate is fixed.

        Args:
            pruner (Pruner): Of the network, or of an averaged copy of it.
        """

    def _load_from_state_dict(self, *args: Any) -> None:
        # With assign=True others take the place of buffers that learn.
        learning = [
            name
            for name, value in self.named_buffers(recurse=False)
            if value.requires_grad
        ]
        super()._load_from_state_dict(*args)
        for name in learning:
            self.get_buffer(name).requires_grad_()

    def by_group(self, pruner: Pruner) -> Mapping[str, Tensor]:
        """Returns what the log and the visualizer show beside keep ratios.

        Args:
            pruner (Pruner): Of the network.

        Returns:
            Mapping[str, Tensor]: By name, each ``[groups]``.
        """
        return {}


METHODS: Choices[type[Method]] = Choices('method', Method)


def register_method(name: str) -> Callable[[type[Method]], type[Method]]:
    """Adds a method under a name that configs can use.

    Args:
        name (str): The name. The class gets the settings of the config, and
            its :meth:`Method.setup` the pruner; see :class:`Method` for an
            example.

    Raises:
        PruningError: If the name is taken.
    """
    return METHODS.register(name)
