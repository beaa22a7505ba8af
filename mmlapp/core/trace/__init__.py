# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""From a network to labelled channels: forwards under a dispatch mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ..derived import contents_kept, forget_derived, lay_out
from ..snapshot import Before
from ..writes import Values
from .attributes import TABLES, counted_attributes, uncounted
from .autograd_functions import watch_functions
from .call import leaves_in, tensors_in
from .heads import Heads
from .laid_out import freeze_laid_out
from .modules import running_modules, watch_modules
from .record import LayerCall, LivingModule, Site, Trace
from .rules import FALLBACK, RULES
from .torch_functions import WatchFunctions
from .tracer import Tracer

__all__ = [
    'TABLES',
    'LayerCall',
    'LivingModule',
    'Site',
    'Trace',
    'leaves_in',
    'running_modules',
    'tensors_in',
    'trace',
]


def trace(
    model: nn.Module,
    forward: Callable[[], Any],
    also: Sequence[Callable[[], Any]] = (),
) -> Trace:
    """Runs a network and records what its channels have to do.

    It runs in evaluation mode without gradients; modes are put back.

    Args:
        model (nn.Module): The network.
        forward (Callable): Calls it on an example and returns its output.
        also (Sequence[Callable]): Further ways in which it runs. What they
            read and return is labelled as well; multiply-adds and the order
            of modules are those of ``forward`` alone. Defaults to none.

    Returns:
        Trace: Channel nodes, ties, sites and multiply-adds.
    """
    values = Values([*model.parameters(), *model.buffers()])
    given = model, forward, also, values
    try:
        found = _trace(*given, counted_attributes)
    except Exception:
        # Code may insist that a number is an int and nothing derived from it.
        found = _trace(*given, uncounted)
    finally:
        written = values.restore()
    found.writes = written
    return found


Counting = Callable[[Tracer, nn.Module], AbstractContextManager[None]]


def _trace(
    model: nn.Module,
    forward: Callable[[], Any],
    also: Sequence[Callable[[], Any]],
    values: Values,
    counting: Counting,
) -> Trace:
    """Once, or where attention cuts channels into heads once more.

    What a forward keeps for the next one would let that run otherwise: every
    pass starts from the same network.
    """
    before = Before(model)
    given = model, forward, also, values, counting
    first = _pass(*given, Heads())
    chosen = first.heads.choose(first.graph)
    tried = set(chosen)
    while chosen:
        before.put_back()
        values.restore()
        found = _pass(*given, Heads(chosen))
        met = found.heads.more(found.graph)
        more = {p: d for p, d in met.items() if p not in tried}
        tried |= more.keys()
        lost = set() if more else found.heads.lost(found.graph)
        if not more and not lost:
            return found.trace
        chosen = {p: d for p, d in {**chosen, **more}.items() if p not in lost}
    return first.trace


def _pass(
    model: nn.Module,
    forward: Callable[[], Any],
    also: Sequence[Callable[[], Any]],
    values: Values,
    counting: Counting,
    heads: Heads,
) -> Tracer:
    """Runs a network once, in all ways."""
    modes = {module: module.training for module in model.modules()}
    forget_derived(modes)
    tracer = Tracer(model, RULES, FALLBACK, heads, values)
    try:
        for module in modes:
            module.training = False
        with torch.no_grad(), contents_kept(modes):
            with (
                watch_functions(tracer),
                watch_modules(tracer, model),
                counting(tracer, model),
                WatchFunctions(tracer),
                tracer,
            ):
                with tracer.unmasked():
                    lay_out(modes)
                outputs = [forward()]
                own, order = len(tracer.trace.calls), list(tracer.trace.order)
                if also:
                    tracer.allow_updates(model)
                outputs += [way() for way in also]
            freeze_laid_out(tracer, model, [forward, *also])
    finally:
        for module, mode in modes.items():
            module.training = mode
    calls = tracer.trace.calls
    tracer.trace.calls, tracer.trace.further_calls = calls[:own], calls[own:]
    tracer.trace.order = order
    tracer.finish(outputs)
    return tracer
