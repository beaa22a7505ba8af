# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which module is running, and modules that are followed as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as hooks

from .rules.wholes import rule_of
from .tracer import Tracer


@contextmanager
def watch_modules(tracer: Tracer, model: nn.Module) -> Iterator[None]:
    """Keeps the stack of running modules while a network is traced.

    A module whose class has a row in the table of wholes runs without rules
    for its operators; its own rule looks at what goes in and comes out.

    Args:
        tracer (Tracer): The running tracer.
        model (nn.Module): The network.
    """
    rules = {id(m): rule_of(m) for m in model.modules()}

    def enter(module: nn.Module, args: Any) -> None:
        if id(module) in rules:
            tracer.stack.append(module)
            tracer.quiet += rules[id(module)] is not None

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        if id(module) not in rules:
            return
        while tracer.stack and tracer.stack.pop() is not module:
            pass  # left by an exception that somebody caught
        rule = rules[id(module)]
        if rule is None:
            return
        tracer.quiet -= 1
        if not tracer.quiet:
            with tracer.silence():
                rule(tracer, module, args, out)

    with ExitStack() as stack:
        for handle in (
            hooks.register_module_forward_pre_hook(enter),
            hooks.register_module_forward_hook(leave),
        ):
            stack.callback(handle.remove)
        yield
