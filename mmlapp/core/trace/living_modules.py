# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which modules compute over their channels, and run on the living alone.

Mean and deviation of a filter are those of the inputs that are left (weight
standardisation, arXiv 1903.10520), and a convolution along channels (ECA,
arXiv 1910.03151) mixes those that are neighbours then: no mask makes it so. A
module that does so by itself therefore runs on the living channels alone while
others are masked, as it will when the network is narrowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .labels import Axis, Labels, blank
from .record import LivingModule

if TYPE_CHECKING:
    from .tracer import Tracer

# Where PyTorch keeps the parts of a weight that is computed at every read.
PARAMETRIZATIONS = 'parametrizations'


@dataclass(frozen=True)
class _Over:
    """What a module computes over.

    Args:
        ids (Tensor): Labels of what removed channels would count in.
        reason (str): Why they are frozen if it does not run alone.
        weight (bool): Whether they are those of a weight.
    """

    ids: Tensor
    reason: str
    weight: bool


class LivingModules:
    """Watches which module an operator over channels is in.

    Args:
        tracer (Tracer): Receives what is frozen, and modules that run on
            living channels.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        # By id of a running module: what it computes over.
        self._pending: dict[int, list[_Over]] = {}
        # Ids of running modules that have called others with parameters.
        self._calling: set[int] = set()

    def entered(self, module: nn.Module) -> None:
        """Notes that a module begins to run.

        Args:
            module (nn.Module): The last one of the stack.
        """
        self._calling.discard(id(module))
        if self._owner() is module and _has_tensors(module):
            caller = self._owner(below=1)
            if caller is not None:
                self._calling.add(id(caller))

    def over(self, of: Labels, ids: Tensor, reason: str) -> None:
        """Freezes, unless the running module can see living channels alone.

        It can where removed channels would count in a weight that it
        computes, or in what it computes of its input.

        Args:
            of (Labels): Of what is computed with.
            ids (Tensor): Those of its labels that would count.
            reason (str): Why they are frozen if the module cannot.
        """
        owner = self._owner()
        if owner is None or id(owner) in self._calling:
            self.tracer.graph.freeze(ids, reason)
            return
        over = _Over(ids, reason, weight=of.parameter)
        self._pending.setdefault(id(owner), []).append(over)

    @property
    def alone(self) -> bool:
        """Whether the running module is to see living channels alone."""
        return id(self._owner()) in self._pending

    def left(self, module: nn.Module, args: Sequence[Any], out: Any) -> None:
        """Decides what becomes of a module that has run.

        Args:
            module (nn.Module): The module.
            args (Sequence): What it was given, in the order of its forward.
            out (Any): What it returned.
        """
        pending = self._pending.pop(id(module), [])
        if not pending:
            return
        living = self._living(module, args, out, pending)
        if living is None:
            self._freeze(pending)
            return
        self.tracer.trace.note_living(living)
        # What it computes for the living is put in their places between zeros.
        axes = {living.dim: Axis(living.out, zero=True)}
        maker = self.tracer.labels(out).maker
        self.tracer.set(out, Labels(axes, maker=maker))

    def finish(self) -> None:
        """Freezes what is left by modules that did not return."""
        for pending in self._pending.values():
            self._freeze(pending)

    def _freeze(self, pending: Sequence[_Over]) -> None:
        for over in pending:
            self.tracer.graph.freeze(over.ids, over.reason)

    def _owner(self, below: int = 0) -> nn.Module | None:
        """The innermost running module, for its parametrizations too.

        Args:
            below (int): How many to skip. Defaults to none.
        """
        for module in reversed(self.tracer.stack):
            name = self.tracer.modules[id(module)]
            if PARAMETRIZATIONS in name.split('.'):
                continue
            if not below:
                return module
            below -= 1
        return None

    def _living(
        self,
        module: nn.Module,
        args: Sequence[Any],
        out: Any,
        pending: Sequence[_Over],
    ) -> LivingModule | None:
        """How it runs on living channels; None if it cannot."""
        name, labels = self.tracer.modules[id(module)], self.tracer.labels
        given = [x for x in args if isinstance(x, Tensor) and labels(x).axes]
        x = args[0] if args else None
        # The network itself has no place to hang another one; more than one
        # input, or more than one dimension, is not gathered.
        if (
            not name
            or id(module) in self._calling
            or 'forward' in vars(module)  # of this object alone
            or not isinstance(x, Tensor)
            or not isinstance(out, Tensor)
            or any(other is not x for other in given)
            or not self._are_own(name, pending)
        ):
            return None
        read, made = labels(x).axes, labels(out).axes
        dim = next(iter(made), 0)
        known = self.tracer.trace.living_modules.get(name)
        if (
            len(made) != 1
            or not read.keys() <= made.keys()
            or x.dim() != out.dim()
            or (known is not None and known.dim != dim)
        ):
            return None
        entered = read.get(dim) or blank(x.shape[dim])
        if not all(_is_input(over, entered.ids) for over in pending):
            return None
        return LivingModule(
            name, dim, entered.ids, made[dim].ids, tuple(x.shape)
        )

    def _are_own(self, name: str, pending: Sequence[_Over]) -> bool:
        """Whether weights come from parameters of a module alone."""
        return all(
            site.name.startswith(f'{name}.')
            for over in pending
            if over.weight
            for site in self.tracer.sites_of(over.ids)
        )


def _is_input(over: _Over, entered: Tensor) -> bool:
    """Whether it is computed over the input: what is made inside may count.

    Such as a queue of features, whose places the code numbers itself.
    """
    return over.weight or bool(torch.isin(over.ids, entered).all())


def _has_tensors(module: nn.Module) -> bool:
    """Whether anything of a module could have to be narrowed."""
    tensors = chain(module.parameters(), module.buffers())
    return any(True for _ in tensors)
