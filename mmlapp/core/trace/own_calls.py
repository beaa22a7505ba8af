# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which convolutions did nothing but one plain call of their own weight.

What runs beside a layer, y = W(x) + B(x), must meet the very x and y of W.
That is so if the layer's own forward ran, returned its convolution of its
input, and nobody else reads its weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules import conv
from torch.nn.modules.conv import _ConvNd

from .call import Call

NEVER = 'its own forward never runs'
OTHERWISE = 'its forward is not one convolution of its input with its weight'
ELSEWHERE = 'its weight is also read outside of its own forward'
MEASURED = (
    'the size of its weight or bias is also read outside of its own forward'
)
# What PyTorch's own convolutions run, which pad as `padding_mode` says.
PLAIN = {
    vars(kind)[name]
    for kind in vars(conv).values()
    if isinstance(kind, type)
    for name in ('forward', '_conv_forward')
    if name in vars(kind)
}


class OwnCalls:
    """Watches a forward for who reads the parameters of its convolutions.

    Args:
        names (Mapping[nn.Module, str]): All modules of the network, named.
    """

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self._names = {
            module: name
            for module, name in names.items()
            if isinstance(module, _ConvNd)
        }
        # By identity: a layer may share a parameter with another one.
        self._owners: dict[int, list[str]] = {}
        for module, name in self._names.items():
            for parameter in module._parameters.values():
                self._owners.setdefault(id(parameter), []).append(name)
        # Whose parameters others ask for their size, as for the number of
        # channels that the layer emits.
        self.measured: set[str] = set()
        self._last: Call | None = None
        self._runs: Counter[str] = Counter()
        self._plain: Counter[str] = Counter()
        self._readers: Counter[str] = Counter()

    def note(self, call: Call) -> None:
        """Notes an operator and whose parameters it reads."""
        self._last = call
        self._readers.update(
            {
                name
                for tensor in call.tensors()
                for name in self._owners.get(id(tensor), ())
            }
        )

    def note_size(self, tensor: Any, running: str) -> None:
        """Notes that somebody asks a tensor for its size.

        Args:
            tensor (Any): Whatever is asked.
            running (str): Name of the innermost module that runs.
        """
        owners = self._owners.get(id(tensor), ())
        self.measured.update(name for name in owners if name != running)

    def left(self, module: nn.Module, args: Sequence[Any], out: Any) -> None:
        """Notes a module that has run, with its input and its output."""
        name = self._names.get(module)  # type: ignore[call-overload]
        if name is not None:
            self._runs[name] += 1
            self._plain[name] += self._is_plain(module, args, out)

    def _is_plain(self, module: Any, args: Sequence[Any], out: Any) -> bool:
        """Whether the last operator was all that a module did."""
        call = self._last
        if call is None or call.op != 'aten::convolution' or len(args) != 1:
            return False
        x, weight, bias, stride, padding, dilation = call.args[:6]
        # Padded by other values it comes padded: then the code must be known.
        kind = type(module)
        known = {kind.forward, kind._conv_forward} <= PLAIN
        pads = known and module.padding_mode != 'zeros'
        own = module._parameters
        return (
            call.out is out
            and (pads or (x is args[0] and _same(padding, module.padding)))
            and weight is own.get('weight')
            and bias is own.get('bias')
            and _same(stride, module.stride)
            and _same(dilation, module.dilation)
            and call.args[8] == module.groups
        )

    def irregular(self) -> dict[str, str]:
        """Returns the other convolutions, by name, with what they do."""
        reasons = {name: self._reason(name) for name in self._names.values()}
        return {name: why for name, why in reasons.items() if why is not None}

    def _reason(self, name: str) -> str | None:
        runs, plain = self._runs[name], self._plain[name]
        if not runs:
            return NEVER
        if runs > plain:
            return OTHERWISE
        return ELSEWHERE if self._readers[name] > plain else None


def _same(given: Sequence[int], own: Any) -> bool:
    """Whether a call has the geometry that the attributes say."""
    # padding='same' is a string: what it comes to is known to the call alone.
    return isinstance(own, str) or tuple(given) == tuple(own)
