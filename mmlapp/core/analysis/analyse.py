# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What can be pruned in a network, found without changing it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..bypass import check_bypass
from ..default_device import on_cpu
from ..generators import generators_in, put_back
from ..groups import Groups
from ..patterns import as_patterns
from ..snapshot import restored
from ..streams import leave_streams
from ..uninitialised import filled
from ..units import UNITS, Request, Unit
from ..units.base import check_keep_streams
from .refusals import (
    check_network,
    check_repeats,
    checked,
    example_of,
    followed,
)
from .result import Analysis
from .unreached import (
    check_branches,
    check_reach,
    check_reshaped,
    follow,
    warn_of_idle_patterns,
)
from .verify import verify_groups
from .ways import Way, as_ways, kept


# Operators would come otherwise than they do in training.
@torch.inference_mode(False)
def analyse(
    model: nn.Module,
    example: Tensor | tuple[Any, ...] | Callable[[], Any],
    scope: str | Sequence[str] = '*',
    ignore: str | Sequence[str] = (),
    bypass: str | Mapping[str, Any] | None = None,
    unit: str | Mapping[str, Any] | Unit = 'channels',
    also: Sequence[Callable[[], Any] | Way] = (),
    unused: str | Sequence[str] = (),
    keep_streams: bool = False,
) -> Analysis:
    """Finds what can be removed from a network without changing it.

    Args:
        model (nn.Module): The network.
        example (Tensor, tuple or Callable): An input, a tuple of all
            positional arguments, or a function without arguments that runs
            the network on whatever else it reads. Tensors that hold one value
            alone are given random numbers, if the network takes them. Where
            more than large images is read, an attribute ``on_corner`` of the
            function may run the network on a corner of them, which is faster.
        scope (str or Sequence[str]): Patterns of module names that may be
            pruned. Defaults to all.
        ignore (str or Sequence[str]): Patterns to leave alone. Defaults to
            none.
        bypass (str or Mapping, optional): Branch of every pruned layer, see
            :func:`attach`. Defaults to none.
        unit (str, Mapping or Unit): What is removed, see :func:`attach`.
            Defaults to ``channels``.
        also (Sequence[Callable]): Functions without arguments that run the
            network in further ways, such as for its loss or for predictions.
            Modules that the example does not reach are followed through
            them. What does not run so, or computes something else, when it
            is narrowed is frozen. Defaults to none.
        unused (str or Sequence[str]): Patterns of modules that no forward
            reaches and that read nothing that is pruned. Defaults to none.
        keep_streams (bool): Whether residual streams stay whole, see
            :func:`attach`. Defaults to False.

    Returns:
        Analysis: Groups, branches and multiply-adds.

    Raises:
        PruningError: If the model is wrapped, compiled or does not run on
            the example, if it returns no tensor or calls other modules at
            every forward, if a pattern of ``scope`` matches nothing, if
            a module that may read pruned channels is not reached, or if
            the unit has no use for ``keep_streams``.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> found = analyse(model, torch.rand(1, 3, 9, 9))
        >>> [(group.name, group.size) for group in found.groups.prunable]
        [('0', 8)]
    """
    check_network(model)
    generators = generators_in(model.modules())
    with (
        on_cpu(),
        _same_random_numbers(),
        put_back(generators),
        filled(model),
    ):
        kind: Unit = UNITS.build(unit)
        check_keep_streams(keep_streams, kind)
        chosen = None if bypass is None else check_bypass(bypass)
        scope = as_patterns('scope', scope)
        ignore = as_patterns('ignore', ignore)
        unused = as_patterns('unused', unused)
        warn_of_idle_patterns(model, unused)
        ways = as_ways(also)
        with _undisturbed(model):
            forward = example_of(model, example)
            record = followed(model, forward)
            # Values are copied where that is needed: it takes a while.
            with kept(model) if record.writes else nullcontext():
                corner = check_repeats(model, forward, record)
            record, reach = follow(
                model, checked(forward), record, ways, unused
            )
        if keep_streams:
            leave_streams(record)
        request = Request(
            model, forward, record, scope, ignore, chosen, ways, corner
        )

        def verify(gather: Callable[[], Groups]) -> Groups:
            groups = verify_groups(request, kind, gather)
            check_reach(model, groups, reach)
            return groups

        found = kind.find(request, verify)
        check_branches(found.branches, reach)
        check_reshaped(found.reshaped, reach)
        return Analysis(
            trace=record,
            groups=found.groups,
            branches=found.branches,
            without=found.without,
            unit=kind,
            bypass=chosen,
            reach=reach,
        )


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Puts back random numbers, and what forwards keep in a network."""
    devices = {p.device for p in model.parameters()}
    cards = [device for device in devices if device.type == 'cuda']
    # Noise of the network is not taken from what the user draws later.
    with torch.random.fork_rng(cards), restored(model):
        yield


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Puts back the states of Python's and NumPy's random numbers."""
    # Who has not imported it draws none of it.
    numpy: Any = getattr(sys.modules.get('numpy'), 'random', None)
    python, other = random.getstate(), numpy and numpy.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        if numpy:
            numpy.set_state(other)
