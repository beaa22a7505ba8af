# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Custom autograd functions whose kernels no dispatch mode can see.

Extensions such as mmcv's call their kernels directly. Without a guard their
results would look like constants, and channels that they read like channels
that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import tree_leaves

from .blocks.registry import function_rule
from .tracer import Tracer


@contextmanager
def watch_functions(tracer: Tracer) -> Iterator[None]:
    """Freezes what custom functions read, unless labels come out of them.

    A function written with PyTorch's operators is followed like any code;
    one that returns tensors without labels has hidden what it did, unless
    there is a rule for its name.

    Args:
        tracer (Tracer): The running tracer.
    """
    # forward is replaced, not apply: extensions bind apply when they are
    # imported, long before a trace.
    originals = {
        cls: cls.__dict__['forward']
        for cls in _subclasses(Function)
        if isinstance(cls.__dict__.get('forward'), staticmethod)
    }
    try:
        for cls, original in originals.items():
            watched = _watched(tracer, cls, original.__func__)
            cls.forward = staticmethod(watched)
        yield
    finally:
        for cls, original in originals.items():
            cls.forward = original


def _subclasses(cls: Any) -> Iterator[Any]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


def _watched(
    tracer: Tracer, cls: Any, forward: Callable[..., Any]
) -> Callable[..., Any]:
    rule = function_rule(cls.__name__)

    def known(*args: Any, **kwargs: Any) -> Any:
        tracer.note_read(tree_leaves((args, kwargs)))
        tracer.quiet += 1
        try:
            out = forward(*args, **kwargs)
        finally:
            tracer.quiet -= 1
        with tracer.silence():
            # By name, whether the network passes them by position or not.
            bound = signature(forward).bind(*args, **kwargs)
            bound.apply_defaults()
            rule(tracer, bound.arguments, out)  # type: ignore[misc]
        return out

    def watched(*args: Any, **kwargs: Any) -> Any:
        tracer.note_read(tree_leaves((args, kwargs)))
        with tracer.sizes.blank_constants(), tracer.reductions.none():
            out = forward(*args, **kwargs)
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        # Followed code leaves labels on its outputs. None there: a kernel ran
        # that no dispatch mode sees, or nothing with channels came in.
        if not any(tracer.labels(t).axes for t in outputs):
            name = f'{cls.__module__}.{cls.__qualname__}'
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, Tensor):
                    tracer.freeze_read(tensor, name)
        return out

    return watched if rule is None else known
