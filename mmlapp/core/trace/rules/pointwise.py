# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Operators that work element by element, with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ..call import Call
from ..labels import Axis, Labels, tie_pieces
from ..record import INPUT_REASON
from ..rule import rules_of_aten
from ..tracer import Tracer

Operand = tuple[Tensor, Labels]
# Of each operand where a channel is removed; None if not known.
Values = list[float | None]


def pointwise(tracer: Tracer, call: Call) -> None:
    """Ties the operands; a removed channel stays zero where f(0) = 0."""
    out = call.outputs()[0]
    operands = [_operand(tracer, t) for t in call.tensors()]
    labelled = [entry for _, entry in operands if entry.axes]
    if not labelled:
        tracer.set(out, Labels())
        return
    result = Labels(parameter=all(entry.parameter for entry in labelled))
    # Broadcasting counts from the right: dimension d of an operand with n
    # dimensions is d + out - n of the result.
    dims = {
        d + out.dim() - t.dim() for t, entry in operands for d in entry.axes
    }
    constants = set()
    for dim in sorted(dims):
        found = _combine(tracer, call, operands, dim, out)
        if found is not None:
            result.axes[dim], constant = found
            constants.add(constant)
    if len(constants) == 1 and not out.is_complex():
        result.constant = constants.pop()
    for output in call.outputs():
        tracer.set(output, result)


def gated(tracer: Tracer, call: Call) -> None:
    """glu: a * sigmoid(b) of two halves, which lose the same channels."""
    source = call.args[0]
    dim = int(call.argument(1, 'dim', -1)) % source.dim()
    axes = dict(tracer.labels(source).axes)
    if dim in axes:
        # [2 C] is [a, b]: index i of a goes with i of b, and is zero where a
        # is, whatever b is.
        both = axes[dim]
        half = source.shape[dim] // 2
        tie_pieces(tracer.graph, both, half)
        axes[dim] = Axis(both.ids[:half], both.zero)
    tracer.set(call.outputs()[0], Labels(axes))


def _operand(tracer: Tracer, tensor: Tensor) -> Operand:
    """Labels of an operand; a bare parameter becomes a masked one.

    A buffer cannot be masked: its removed channels are not zero.
    """
    labels = tracer.labels(tensor)
    name = tracer.name(tensor)
    if name is None or not labels.maskable:
        return tensor, labels
    if tracer.living.alone and len(labels.axes) > 1:
        # No mask is needed; a gate would count twice, at its reader as well.
        return tensor, replace(labels, maskable=False)
    axes = {}
    for dim, axis in labels.axes.items():
        tracer.trace.masked.add(tracer.site(name, dim, tensor.shape[dim]))
        axes[dim] = Axis(axis.ids, zero=True)
    return tensor, Labels(axes, parameter=True)


def _combine(
    tracer: Tracer,
    call: Call,
    operands: list[Operand],
    dim: int,
    out: Tensor,
) -> tuple[Axis, float | None] | None:
    """Ties all labels that meet along one dimension of the result.

    Returns:
        tuple or None: Labels of the result, and what is known of its value
        where channels are removed; None if it has none.
    """
    axes: list[Axis | None] = []
    values: Values = []
    constant = False
    for tensor, labels in operands:
        # A scale [C, 1, 1] of [N, C, H, W]: dim 1 of the result is its dim 0.
        # Below 0 it has no such dimension and broadcasts.
        d = dim - out.dim() + tensor.dim()
        axis = labels.axes.get(d)
        size = tensor.shape[d] if d >= 0 else 1
        if axis is None and size > 1 and tensor.stride(d):
            # A constant with a value for each index: none of them is a
            # channel, and what meets it is frozen. Of size one, or expanded
            # from it, it is as good for fewer channels: no axis.
            axis = Axis(torch.full((size,), -1), zero=False)
            constant = True
        axes.append(axis)
        values.append(labels.value(d))
    found = [axis for axis in axes if axis is not None]
    for axis in found[1:]:
        tracer.graph.unite(found[0].ids, axis.ids, INPUT_REASON)
    if call.op.removesuffix('_') in _ADDING:
        _note_sum(tracer, operands, axes)
    if constant and not all(labels.parameter for _, labels in operands):
        # All of it stays: what is moved on needs no label of it.
        return None
    ids = _largest(operands, axes)
    rule = _WHERE_REMOVED.get(call.op.removesuffix('_'), _evaluated)
    zeros: Values = [0.0 if _is_zero(axis) else None for axis in axes]
    value = rule(call, values)
    # What is a constant that may be zero by chance is none that masks make.
    promised = value if values == zeros else rule(call, zeros)
    reason = _infinite(call, values, value)
    if reason is not None:
        labelled = [entry for _, entry in operands if entry.axes]
        of = Labels(parameter=all(entry.parameter for entry in labelled))
        tracer.living.over(of, ids, reason)
        value = None
    return Axis(ids, promised == 0), value


def _infinite(call: Call, values: Values, value: float | None) -> str | None:
    """Why masks would lead to infinite numbers, if they would."""
    known = dict.fromkeys(
        f'{v:g}' if v else 'zero' for v in values if v is not None
    )
    where = ' and '.join(known)
    if value is not None and not math.isfinite(value):
        return f'{call.op} of {where} is not finite'
    # They train into NaN: an infinite slope, times their zero.
    steep = _STEEP.get(call.op.removesuffix('_'))
    if steep is not None and steep(call, values):
        return f'the gradient of {call.op} at {where} is not finite'
    return None


def _has_small_exponent(call: Call, values: Values) -> bool:
    base, exponent = call.args[:2]
    if not isinstance(base, Tensor) or values[0] != 0:
        return False
    # The slope of x^p is p x^(p - 1).
    powers = torch.as_tensor(exponent)
    if powers.is_complex() or powers.is_meta:
        return False
    return bool(((powers > 0) & (powers < 1)).any())


def _note_sum(
    tracer: Tracer, operands: list[Operand], axes: list[Axis | None]
) -> None:
    """Notes what one layer adds to what another emits; a bias is none."""
    added = [
        axis.ids
        for (_, labels), axis in zip(operands, axes, strict=True)
        if axis is not None and not labels.parameter
    ]
    for ids in added[1:]:
        # Labels of one layer, twice: x + x * gate(x) is a scale of x.
        first, other = torch.broadcast_tensors(added[0], ids)
        tracer.trace.added.append(first.maximum(other)[first != other])


def _largest(operands: list[Operand], axes: list[Axis | None]) -> Tensor:
    """Labels of the largest operand, where it has any.

    Of filters and not of their scale: where labels come from is the layer.
    """
    sizes = [tensor.numel() for tensor, _ in operands]
    order = sorted(range(len(axes)), key=lambda i: -sizes[i])
    first, *others = [a.ids for i in order if (a := axes[i]) is not None]
    for ids in others:
        # Where the largest has no channel (padded with zeros), one of the
        # others has: a sum of [a, b, -] and [-, -, c] is [a, b, c].
        first = torch.where(first < 0, ids, first)
    return first


def _is_zero(axis: Axis | None) -> bool:
    return axis is not None and axis.zero


def _evaluated(call: Call, values: Values) -> float | None:
    """Runs the operator on what its operands are, if all are known."""
    if any(value is None for value in values):
        return None
    if any(values) and torch.Tag.nondeterministic_seeded in call.func.tags:
        return None
    given = iter(values)

    # f(0, 0, ..) by the operator itself, with its own constants: 1 for exp,
    # 0.2 for clamp(min=0.2).
    def blank(tensor: Tensor) -> Tensor:
        return torch.full((1,), next(given) or 0, dtype=tensor.dtype)

    args, kwargs = tree_map_only(Tensor, blank, (call.args, call.kwargs))
    value: Tensor = tree_leaves(call.func(*args, **kwargs))[0]
    # Of a complex number its size: whether it is zero, and finite.
    return float(value.abs() if value.is_complex() else value)


def _product(call: Call, values: Values) -> float | None:
    return 0.0 if 0 in values else _evaluated(call, values)


def _quotient(call: Call, values: Values) -> float | None:
    # x / 0, if only where a channel is masked: infinite or 0 / 0.
    if len(values) > 1 and values[1] == 0:
        return math.nan
    return 0.0 if values[0] == 0 else _evaluated(call, values)


def _logarithm_at(value: float) -> Callable[[Call, Values], bool]:
    """Of x log(y) the slope along y is x / y: 0 / 0 where both vanish."""
    return lambda call, values: (
        isinstance(call.args[1], Tensor) and values[-1] == value
    )


# Operators that add what they are given.
_ADDING = {
    'aten::add',
    'aten::sub',
    'aten::rsub',
    'aten::addcmul',
    'aten::lerp',
}

# Value of an operator where its channel is removed; None if unknown.
_WHERE_REMOVED: dict[str, Callable[[Call, Values], float | None]] = {
    'aten::mul': _product,
    'aten::div': _quotient,
    'aten::_prelu_kernel': lambda call, values: (
        0.0 if values[0] == 0 else _evaluated(call, values)
    ),
}

# Whether the slope of an operator is infinite, or 0 / 0, where its channel is
# removed, although its value is finite.
_STEEP: dict[str, Callable[[Call, Values], bool]] = {
    'aten::sqrt': lambda call, values: values[0] == 0,
    'aten::pow': _has_small_exponent,
    'aten::hypot': lambda call, values: all(v == 0 for v in values),
    'aten::special_entr': lambda call, values: values[0] == 0,
    'aten::xlogy': _logarithm_at(0),
    'aten::special_xlog1py': _logarithm_at(-1),
    'aten::asin': lambda call, values: values[0] in (-1, 1),
    'aten::acos': lambda call, values: values[0] in (-1, 1),
    'aten::acosh': lambda call, values: values[0] == 1,
}

# Operators that torch does not tag as pointwise although they are.
_UNTAGGED = (
    'hardtanh leaky_relu hardswish hardsigmoid elu selu celu relu6 '
    'softplus log_sigmoid_forward mish silu gelu dropout fill zero '
    '_prelu_kernel complex polar'
)
RULES = rules_of_aten({pointwise: _UNTAGGED, gated: 'glu'})
