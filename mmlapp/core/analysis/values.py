# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a network on trial holds: fixed random values that hide nothing.

Initial weights hide errors: a residual branch that begins with zero, a scale
of 1e-5 behind an attention, a shift of zero. The values here depend on the
names, shapes and order of the parameters alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from ..plan.kept import Kept
from ..snapshot import Twins, twin_of, values_of

# Random numbers that are drawn, a prime: no row of a weight has a length that
# this is a multiple of, so that rows differ although the numbers repeat.
PERIOD = 65521
# How far the numbers of one parameter are behind those of the one before.
STRIDE = 7919
# Weights of linear layers with this many numbers are not laid out one by one:
# each row lies so far behind the one before in the same numbers, a prime too.
LARGE, STEP = 2**20, 101
# Means and biases are this much smaller than scales.
SHIFT = 0.25
# Largest typical magnitude, device, whether there are signs.
Scale = tuple[float, torch.device, bool]


class RandomValues:
    r"""Random parameters and statistics of norms, the same at every call.

    Scales are uniform in [0.5, 1.5] and shifts in [0.125, 0.375]. Weights
    are :math:`\pm u / \sqrt n`, with :math:`u` as scales are and the number
    :math:`n` of inputs that the plan leaves to an output, so that what the
    narrowed network computes neither explodes nor vanishes; positive ones
    are :math:`u / n`. Other buffers keep their values, which mean something.

    Args:
        model (nn.Module): The network, as it is when they are drawn.
    """

    def __init__(self, model: nn.Module) -> None:
        # Once, for all that goes over them: there may be many.
        named = dict(model.named_modules())
        self._modules = list(named.values())
        self._varied = list(_varied(model, named))
        self._linear = {
            id(m.weight) for m in self._modules if type(m) is nn.Linear
        }

    def draw(
        self,
        dtype: torch.dtype,
        kept: Mapping[str, Mapping[int, Kept]],
        positive: bool = False,
        alone: bool = False,
    ) -> Twins:
        """Returns a value for every parameter and buffer.

        Args:
            dtype (torch.dtype): Of floating tensors.
            kept (Mapping): What a plan keeps of each dimension that shrinks,
                by name of the tensor.
            positive (bool): Whether no weight is negative: where few channels
                are left, rectifiers could silence all of them. Defaults to
                False.
            alone (bool): Whether none shares its memory with another one.
                Defaults to False.
        """
        twins: Twins = {}
        for (scale, device, signed), values in self._by_scale(kept, positive):
            laid = [
                (
                    value,
                    first,
                    _strides(value.shape, id(value) in self._linear),
                )
                for value, first in values
            ]
            length = max(
                first + _span(v.shape, strides) for v, first, strides in laid
            )
            numbers = (_numbers(signed) * scale).to(device, dtype)
            pool = numbers.repeat(-(-length // PERIOD))
            for value, first, strides in laid:
                # A view: parameters of one scale share their memory.
                part = pool.as_strided(value.shape, strides, first)
                part = part.clone() if alone else part
                twins[id(value)] = twin_of(value, part)
        return values_of(self._modules, dtype, twins)

    def _by_scale(
        self, kept: Mapping[str, Mapping[int, Kept]], positive: bool
    ) -> Iterable[tuple[Scale, list[tuple[Tensor, int]]]]:
        """What shares random numbers: tensors, and where theirs begin."""
        wanted: dict[Scale, list[tuple[Tensor, int]]] = defaultdict(list)
        for number, (name, value) in enumerate(self._varied):
            dims = kept.get(name, {})
            fan_in = math.prod(
                dims[dim].count if dim in dims else size
                for dim, size in enumerate(value.shape)
                if dim
            )
            scale, signed = _scale(name, value, fan_in, positive)
            first = number * STRIDE % PERIOD
            wanted[scale, value.device, signed].append((value, first))
        return wanted.items()


def _strides(shape: Sequence[int], linear: bool) -> list[int]:
    """Where a parameter has its numbers; of large layers, overlapping."""
    if linear and math.prod(shape) >= LARGE:
        return [STEP, 1]
    # [out, in, kh, kw] -> [in kh kw, kh kw, kw, 1]
    return [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]


def _span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """How many numbers lie between the first and the last one, with both."""
    steps = zip(shape, strides, strict=True)
    return 1 + sum((size - 1) * stride for size, stride in steps)


def _varied(
    model: nn.Module, modules: Mapping[str, nn.Module]
) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and buffers of norms that keep statistics, by name."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            yield name, parameter
    for name, module in modules.items():
        variance = module._buffers.get('running_var')
        if variance is None:
            continue
        # Frozen norms keep scale and shift in buffers as well.
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.shape == variance.shape:
                yield f'{name}.{key}', buffer


def _scale(
    name: str, value: Tensor, fan_in: int, positive: bool
) -> tuple[float, bool]:
    """Largest typical magnitude, and whether values have signs."""
    if value.dim() < 2 or value[0].numel() == 1:
        shift = name.endswith(('bias', 'running_mean'))
        return (SHIFT if shift else 1.0), False
    # Rounded to half powers of two, so that many parameters share a scale.
    power = math.log2(max(fan_in, 1)) * (1 if positive else 0.5)
    return 2.0 ** (-round(2 * power) / 2), not positive


@cache
def _numbers(signed: bool) -> Tensor:
    """Uniform in [0.5, 1.5], with or without signs."""
    generator = torch.Generator().manual_seed(0)
    # [magnitudes, signs]
    drawn, sign = torch.rand(
        2, PERIOD, generator=generator, dtype=torch.float64, device='cpu'
    )
    numbers = drawn + 0.5
    return torch.where(sign < 0.5, -numbers, numbers) if signed else numbers
