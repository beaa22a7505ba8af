# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Further ways in which a network runs, beside its example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import PruningError
from ..generators import generators_in, put_back
from ..snapshot import restored
from ..writes import CopyOnWrite


@dataclass(frozen=True)
class Way:
    """One more way in which a network runs, such as the one of its loss.

    Args:
        run (Callable): Runs the network and returns its outputs.
        name (str): What it is called in messages.
        train (bool): Whether it runs in training mode, where some heads wake
            up. Norms stay in evaluation mode: an example may be too small
            for statistics of a batch. Defaults to False.
        compare (bool): Whether a narrowed network must return what the
            masked one does, and not just run. A loss that draws samples or
            ranks candidates need not. Defaults to True.
        proven (bool): Whether it is known to run. Defaults to False.
        followed (bool): Whether it may have code of its own that asks for
            numbers of channels, even where it reaches nothing new. Defaults
            to False.

    Examples:
        >>> model, images = nn.Linear(2, 1), torch.ones(3, 2)
        >>> Way(lambda: model(images), 'twos').run().shape
        torch.Size([3, 1])
    """

    run: Callable[[], Any]
    name: str
    train: bool = False
    compare: bool = True
    proven: bool = False
    followed: bool = False


def as_ways(also: Sequence[Callable[[], Any] | Way]) -> list[Way]:
    """Gives a user's functions their names.

    Args:
        also (Sequence[Callable or Way]): Further ways to run the network.

    Raises:
        PruningError: If they are no sequence, or one of them no function.
    """
    given: Any = also
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise PruningError(
            f'also={type(also).__name__}: expected a list of functions '
            'without arguments, each of which runs the network'
        )
    found = []
    for number, way in enumerate(also):
        if not isinstance(way, Way):
            if not callable(way):
                raise PruningError(
                    f'also[{number}]={type(way).__name__}: expected a '
                    'function without arguments that runs the network'
                )
            way = Way(way, f'also[{number}]', followed=True)
        found.append(way)
    return found


def in_its_mode(model: nn.Module, way: Way) -> Callable[[], Any]:
    """Returns a function that runs a way in its mode.

    Args:
        model (nn.Module): The network; in the mode of before afterwards.
        way (Way): How it runs.
    """

    def run() -> Any:
        before = {module: module.training for module in model.modules()}
        try:
            for module in before:
                norm = isinstance(module, _NormBase)
                module.training = way.train and not norm
            with torch.no_grad():
                return way.run()
        finally:
            for module, mode in before.items():
                module.training = mode

    return run


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Puts a network back as it was, the values of its tensors included.

    A loss may update a queue, a momentum encoder or a counter. Random
    numbers go on as they would have.

    Args:
        model (nn.Module): The network.
    """
    devices = {p.device for p in model.parameters()}
    cards = [device for device in devices if device.type == 'cuda']
    # Statistics of norms are written by operators that do not say so.
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    parameters = CopyOnWrite(model.parameters())
    generators = put_back(generators_in(model.modules()))
    try:
        with (
            restored(model),
            torch.random.fork_rng(cards),
            generators,
            parameters,
        ):
            yield
    finally:
        parameters.restore()
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
