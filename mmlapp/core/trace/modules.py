# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which module is running, and modules that are followed as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from .blocks.registry import cuts_follow, rule_of
from .tracer import Tracer
from .widths import note_widths


@contextmanager
def running_modules(
    modules: Iterable[nn.Module],
    entered: Callable[[nn.Module], None] = lambda module: None,
    left: Callable[[nn.Module, Any, Any], None] | None = None,
) -> Iterator[list[nn.Module]]:
    """Yields the stack of a network's running modules, innermost last.

    Args:
        modules (Iterable[nn.Module]): All modules of the network.
        entered (Callable): Called with a module that begins to run.
        left (Callable): Called with a module that has run, its arguments in
            the order of its forward and what it returned.
    """
    known = set(map(id, modules))
    running: list[nn.Module] = []

    def enter(module: nn.Module, args: Any) -> None:
        if id(module) in known:
            running.append(module)
            entered(module)

    def leave(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if id(module) not in known:
            return
        while running and running.pop() is not module:
            pass  # left by an exception that somebody caught
        if left is not None:
            if kwargs:  # of few modules
                placed, others = in_order(module, args, kwargs)
                args = *placed, *others.values()
            left(module, args, out)

    with ExitStack() as stack:
        stack.enter_context(_unfused())
        for handle in (
            hooks.register_module_forward_pre_hook(enter),
            hooks.register_module_forward_hook(leave, with_kwargs=True),
        ):
            stack.callback(handle.remove)
            # PyTorch forgets what it noted of keywords.
            noted: Any = hooks._global_forward_hooks_with_kwargs
            stack.callback(noted.pop, handle.id, None)
        yield running


def in_order(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Puts arguments of a module that were given by name in their places.

    Args:
        module (nn.Module): The module.
        args (Sequence): Those given by position.
        kwargs (Mapping): Those given by name.

    Returns:
        tuple: All that have a position, and the others.

    Examples:
        >>> in_order(nn.Bilinear(1, 2, 3), (), {'input2': 'b', 'input1': 'a'})
        (('a', 'b'), {})
    """
    if not kwargs:
        return tuple(args), {}
    bound = signature(module.forward).bind(*args, **kwargs)
    return bound.args, bound.kwargs


@contextmanager
def _unfused() -> Iterator[None]:
    """Lets layers of attention call their modules one by one.

    Without gradients PyTorch runs one operator for all of them.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def watch_modules(tracer: Tracer, model: nn.Module) -> Iterator[None]:
    """Keeps the stack of running modules while a network is traced.

    A module of a block that is registered with a rule runs without rules for
    its operators; its own rule looks at what goes in and comes out.

    Args:
        tracer (Tracer): The running tracer.
        model (nn.Module): The network.
    """
    modules = list(model.modules())
    rules = {id(m): rule_of(m) for m in modules}
    tracer.cutters = {id(m) for m in modules if cuts_follow(m)}

    def entered(module: nn.Module) -> None:
        tracer.trace.order.append(tracer.modules[id(module)])
        tracer.living.entered(module)
        # True counts as one; wholes may be inside of wholes.
        tracer.quiet += rules[id(module)] is not None

    def left(module: nn.Module, args: Any, out: Any) -> None:
        tracer.own_calls.left(module, args, out)
        rule = rules[id(module)]
        if not tracer.quiet:
            with tracer.silence():
                tracer.living.left(module, args, out)
            note_widths(tracer, module, args, out)
        if rule is None:
            return
        tracer.quiet -= 1
        # The outermost alone: inside of it nothing has labels.
        if not tracer.quiet:
            with tracer.silence():
                rule(tracer, module, args, out)

    with running_modules(modules, entered, left) as tracer.stack:
        yield
