# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What stays outside of a compiled training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mmlapp.core import Pruner


class Uncompiled:
    """Calls a function, or a bound method, and is never compiled with it.

    A copy of the owner of a method has a copy of this that belongs to it, and
    pickling leaves the compiler out.

    Args:
        function (Callable): The function.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._run = torch.compiler.disable(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the function returns."""
        return self._run(*args, **kwargs)

    def __reduce__(self) -> tuple[type, tuple[Callable[..., Any]]]:
        return type(self), (self.function,)


def leave_uncompiled(pruner: Pruner) -> None:
    """Keeps the bookkeeping of the pruning out of what torch compiles.

    MMEngine compiles the whole ``train_step``. Scores have another shape in
    every group and the schedule another number in every step: each would be
    compiled anew, until the compiler gives up. Imports the compiler, which
    takes seconds: for runs that compile.

    Args:
        pruner (Pruner): Of the run; others stay as they are.
    """
    # What a training step calls: the hooks of the model that add the loss and
    # put relaxed gates in place, and the optimizer wrapper.
    for name in ('loss', 'relax', 'step'):
        method = getattr(pruner, name)
        if not isinstance(method, Uncompiled):
            # On this object alone, before the method of its class.
            setattr(pruner, name, Uncompiled(method))
