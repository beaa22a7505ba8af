# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds as MMEngine counts them, to check ours against."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from torch import Tensor, nn

from .comparison import flat_tensors
from .example import ExampleForward
from .inputs import InputShape

# What the budget counts; MMEngine also counts norms, pooling and resizing.
COUNTED = ('conv', 'linear', 'addmm', 'mm', 'bmm', 'matmul', 'einsum')


class _Tensors(nn.Module):
    """A model as a function to tensors, as tracing needs."""

    def __init__(self, model: nn.Module, forward: ExampleForward) -> None:
        super().__init__()
        self.model, self.run = model, forward

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat_tensors(self.run(*tensors)))


def _shapes(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[list[int]]:
    return [list(v.type().sizes()) for v in (*inputs, outputs[0])]


def _convolution(index: int) -> Callable[[Any, Any], Counter[str]]:
    """Counts a convolution whose weight is the input of this number."""

    def count(inputs: Any, outputs: Any) -> Counter[str]:
        # [out, in / groups, *kernel] and [n, out, *size]: every weight meets
        # every position of every image once.
        weight, out = _shapes(inputs[index : index + 1], outputs)
        flops = math.prod(weight) * out[0] * math.prod(out[2:])
        return Counter({'conv': flops})

    return count


def _attention(inputs: Any, outputs: Any) -> Counter[str]:
    """Counts both products of scaled dot-product attention."""
    query, _, value, _ = _shapes(inputs[:3], outputs)
    # Q K^T, [..., L, E] by [..., E, S]: L S E. The result, [..., L, S],
    # by V, [..., S, D]: L S D.
    pairs = math.prod(query[:-1]) * value[-2]
    return Counter({'matmul': pairs * (query[-1] + value[-1])})


def _product(inputs: Any, outputs: Any) -> Counter[str]:
    """Counts a batch of matrix products that something is added to."""
    first, second, _ = _shapes(inputs[1:3], outputs)
    # [n, rows, in] by [n, in, columns].
    return Counter({'bmm': math.prod(first) * second[-1]})


# Operators that the table of MMEngine and fvcore lacks.
HANDLES = {
    'aten::_convolution_mode': _convolution(1),
    'aten::baddbmm': _product,
    'aten::scaled_dot_product_attention': _attention,
    'prim::PythonOp.DeformConv2dFunction': _convolution(2),
    'prim::PythonOp.ModulatedDeformConv2dFunction': _convolution(3),
    'torchvision::deform_conv2d': _convolution(1),
}


def operator_flops(
    model: nn.Module, input_shape: InputShape
) -> tuple[dict[str, int], dict[str, int]]:
    """Counts multiply-adds by operator, with MMEngine's copy of fvcore.

    Args:
        model (nn.Module): A model in evaluation mode, without masks.
        input_shape (Sequence[int] or Mapping): See
            :func:`~mmlapp.engine.models.inputs.example_batch`.

    Returns:
        tuple[dict[str, int], dict[str, int]]: Multiply-adds of every
        operator, and calls of those written outside of PyTorch that are not
        counted.
    """
    forward = ExampleForward(model, input_shape)
    tensors = tuple(forward.attempt.tensors)
    analyzer = FlopAnalyzer(_Tensors(model, forward), tensors)
    analyzer.set_op_handle(**HANDLES)
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad(), warnings.catch_warnings():
        # Tracing warns of every Python number in the model.
        warnings.simplefilter('ignore')
        counts = analyzer.by_operator()
        foreign = analyzer.unsupported_ops()
    # What a tracer calls a function of autograd that is written in Python.
    outside = 'prim::PythonOp.'
    return {name: int(count) for name, count in counts.items()}, {
        name.removeprefix(outside): int(count)
        for name, count in sorted(foreign.items())
        if name.startswith(outside)
    }


def counted_flops(by_operator: Mapping[str, int]) -> int:
    """Sums what the budget counts: convolution, linear, matrix product.

    Args:
        by_operator (Mapping[str, int]): See :func:`operator_flops`.

    Examples:
        >>> counted_flops({'conv': 3, 'linear': 2, 'batch_norm': 9})
        5
    """
    return sum(by_operator.get(name, 0) for name in COUNTED)
