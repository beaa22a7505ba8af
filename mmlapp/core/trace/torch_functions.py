# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Functions that tell what no operator does.

Some values leave the network for Python past every operator, and some
functions compute with the width of what they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .tracer import Tracer

VALUE = 'made a Python value by {}'
SCALED = 'compared by attention, with a scale that is computed from its width'


def read_by_python(
    tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    """What Python does with numbers cannot be seen: decide, or compute on."""
    tracer.freeze_read(args[0], f'Tensor.{func.__name__}', VALUE)


def attention(
    tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    """Queries and keys of fewer channels would be scaled otherwise."""
    if kwargs.get('scale') is None:
        # By position or by name, the first two.
        for tensor in (*args, *kwargs.values())[:2]:
            tracer.freeze(tracer.labels(tensor), SCALED)


FUNCTIONS: dict[Any, Callable[..., None]] = {
    functional.scaled_dot_product_attention: attention,
    # Nothing is dispatched for them, as it is for item or equal.
    Tensor.__array__: read_by_python,
    Tensor.__dlpack__: read_by_python,
    Tensor.data_ptr: read_by_python,
    Tensor.numpy: read_by_python,
    Tensor.tolist: read_by_python,
}


class WatchFunctions(TorchFunctionMode):
    """Looks at functions before they become operators.

    Args:
        tracer (Tracer): The running tracer.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        rule = FUNCTIONS.get(func)
        if rule is not None and not self.tracer.quiet:
            with self.tracer.silence():
                rule(self.tracer, func, args, kwargs)
        return func(*args, **kwargs)
