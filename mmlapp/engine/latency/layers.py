# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Kinds of layers of a network, alone and at any width."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmlapp.core import PruningError
from mmlapp.core.cost import CostContext
from mmlapp.core.cost.flops import HANDLES
from mmlapp.core.cost.latency_table import full_width, key_of_call
from mmlapp.core.cost.timed_calls import axes_of
from mmlapp.core.trace import LayerCall

from .setting import Setting

Run = Callable[[], object]
# Of a convolution, each a number for every dimension.
WINDOW = 'stride', 'padding', 'dilation'


@dataclass(frozen=True)
class Kind:
    """Calls that take equally long, as one of them.

    Args:
        names (tuple[str, ...]): Layers that run so.
        call (LayerCall): With all channels.
        axes (Mapping[str, tuple[int, ...]]): Widths at which it is
            measured, by dimension.
    """

    names: tuple[str, ...]
    call: LayerCall
    axes: Mapping[str, tuple[int, ...]]

    def widths(self) -> Iterator[dict[str, int]]:
        """Yields all points of the grid, the last axis fastest."""
        for chosen in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, chosen, strict=True))


def kinds(
    context: CostContext, batch: int, points: int, divisor: int
) -> list[Kind]:
    """Gathers the convolutions and products of a network by kind.

    Args:
        context (CostContext): What costs are counted from.
        batch (int): Images at once.
        points (int): Widths of each dimension that may shrink.
        divisor (int): What they are multiples of.

    Returns:
        list[Kind]: In order of the forward.
    """
    found: dict[tuple[Any, ...], Kind] = {}
    # The example has images of its own: one, or two.
    own = context.calls[0].inputs[0] if context.calls else 1
    for call in (*context.calls, *context.branch_calls):
        if call.op not in HANDLES:
            continue
        axes = {
            axis: grid(call, axis, points, divisor)
            for axis in axes_of(call, context.groups)
        }
        key = key_of_call(call), *axes
        if key not in found:
            found[key] = Kind((), _at_batch(call, batch, own), axes)
        kind = found[key]
        names = dict.fromkeys((*kind.names, call.name))
        found[key] = replace(kind, names=tuple(names))
    return list(found.values())


def _at_batch(call: LayerCall, batch: int, own: int) -> LayerCall:
    """The same for other images, which the first dimension counts."""

    def scaled(shape: Sequence[int]) -> tuple[int, ...]:
        return (max(shape[0] * batch // own, 1), *shape[1:])

    computed = call.op == 'product' and len(call.weight) > 2
    return replace(
        call,
        inputs=scaled(call.inputs),
        outputs=scaled(call.outputs),
        weight=scaled(call.weight) if computed else call.weight,
    )


def grid(
    call: LayerCall, axis: str, points: int, divisor: int
) -> tuple[int, ...]:
    """Returns widths of a dimension, evenly spaced, and half of the least.

    Args:
        call (LayerCall): The call.
        axis (str): The dimension.
        points (int): How many.
        divisor (int): What all but the full width are multiples of.
    """
    full = full_width(call.op, call.weight, _transposed(call), axis)
    # Widths of grouped layers are whole groups, or equal parts of all.
    step = math.lcm(divisor, _unit(call) if axis == 'out' else _field(call))
    shares = [0.5 / points, *((k + 1) / points for k in range(points))]
    wanted = {math.ceil(full * share / step) * step for share in shares}
    return tuple(sorted({min(width, full) for width in wanted}))


def _transposed(call: LayerCall) -> bool:
    return bool(call.geometry.get('transposed'))


def _unit(call: LayerCall) -> int:
    """What the outputs of a convolution are multiples of."""
    groups = int(call.geometry.get('groups', 1))
    if groups == 1:
        return 1
    # Without inputs whole groups go: out / groups at a time.
    return groups if 'in' in call.dims else call.weight[0] // groups


def _field(call: LayerCall) -> int:
    """What the inputs of a convolution, in one group, are multiples of."""
    # in * groups channels share the fields of offsets evenly.
    fields = int(call.geometry.get('offset_groups', 1))
    return fields // math.gcd(fields, int(call.geometry.get('groups', 1)))


@dataclass(frozen=True)
class Shape:
    """A convolution or product at some widths.

    Args:
        inputs (tuple[int, ...]): Shape of the input.
        weight (tuple[int, ...]): Shape of the weight.
        groups (int): Of a convolution.
    """

    inputs: tuple[int, ...]
    weight: tuple[int, ...]
    groups: int = 1


def shape_at(call: LayerCall, widths: Mapping[str, int]) -> Shape:
    """Returns the shapes of a call that was narrowed.

    Args:
        call (LayerCall): With all channels.
        widths (Mapping[str, int]): Of some of its dimensions.
    """
    sizes = {
        axis: widths.get(
            axis, full_width(call.op, call.weight, _transposed(call), axis)
        )
        for axis in ('in', 'out')
    }
    if call.op == 'product':
        # [..., in] times [..., in, out].
        *rest, _, _ = call.weight
        return Shape(
            (*call.inputs[:-1], sizes['in']),
            (*rest, sizes['in'], sizes['out']),
        )
    groups = int(call.geometry.get('groups', 1))
    if groups > 1 and 'out' in widths and 'in' not in call.dims:
        groups = sizes['out'] * groups // call.weight[0]
    # [out, in / groups, ...], of a transposed one [in, out / groups, ...].
    first, second = 'out', 'in'
    if _transposed(call):
        first, second = second, first
    weight = (sizes[first], sizes[second], *call.weight[2:])
    channels = sizes['in'] * (1 if _transposed(call) else groups)
    return Shape((call.inputs[0], channels, *call.inputs[2:]), weight, groups)


def layer_run(
    call: LayerCall, widths: Mapping[str, int], setting: Setting
) -> Run:
    """Returns a function that runs one layer at some widths.

    Args:
        call (LayerCall): The layer with all channels.
        widths (Mapping[str, int]): What is left of some dimensions.
        setting (Setting): Backend, threads and device.

    Raises:
        PruningError: If the backend runs no such layer.
    """
    shape = shape_at(call, widths)
    make = BACKENDS.get(setting.backend)
    if make is None:
        raise PruningError(
            f'backend={setting.backend!r}: layers are measured with '
            f'{" or ".join(BACKENDS)}'
        )
    return make(call, shape, setting)


def _torch_run(call: LayerCall, shape: Shape, setting: Setting) -> Run:
    x, weight = (
        torch.rand(size, device=setting.device)
        for size in (shape.inputs, shape.weight)
    )
    if call.op == 'product':
        return _torch_product(x, weight)
    if 'offset_groups' in call.geometry:
        return _deformable(call, x, weight, shape.groups)
    stride, padding, dilation = (list(call.geometry[key]) for key in WINDOW)
    # The one operator that all convolutions of torch end in.
    zeros = [0] * len(stride)
    arguments = stride, padding, dilation, _transposed(call), zeros

    def run() -> Tensor:
        with torch.inference_mode():
            return torch.convolution(x, weight, None, *arguments, shape.groups)

    return run


def _deformable(
    call: LayerCall, x: Tensor, weight: Tensor, groups: int
) -> Run:
    """By the operator that the network itself calls."""
    places = {k: v.to(x.device) for k, v in _places(call, len(x)).items()}
    operator = DEFORMABLE[call.geometry['operator']]
    geometry = {**call.geometry, 'groups': groups}

    def run() -> Tensor:
        with torch.inference_mode():
            return operator(x, weight=weight, geometry=geometry, **places)

    return run


def _places(call: LayerCall, images: int) -> dict[str, Tensor]:
    """What a deformable convolution reads, and factors if there are some."""
    fields = call.geometry['offset_groups'] * math.prod(call.weight[2:])
    size = call.outputs[2:]
    # Of a pixel or so, as trained ones are: zeros would be read in order.
    found = {'offset': torch.randn(images, 2 * fields, *size)}
    if call.geometry['masked']:
        found['mask'] = torch.rand(images, fields, *size)
    return found


def _by_mmcv(
    x: Tensor,
    weight: Tensor,
    geometry: Mapping[str, Any],
    offset: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    ops: Any = import_module('mmcv.ops')
    rest = [geometry[key] for key in (*WINDOW, 'groups', 'offset_groups')]
    found: Tensor = (
        ops.deform_conv2d(x, offset, weight, *rest)
        if mask is None
        else ops.modulated_deform_conv2d(x, offset, mask, weight, None, *rest)
    )
    return found


def _by_torchvision(
    x: Tensor,
    weight: Tensor,
    geometry: Mapping[str, Any],
    offset: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    ops: Any = import_module('torchvision.ops')
    window = [geometry[key] for key in WINDOW]
    found: Tensor = ops.deform_conv2d(x, offset, weight, None, *window, mask)
    return found


# By `operator` in the geometry of a call.
DEFORMABLE = {'mmcv': _by_mmcv, 'torchvision': _by_torchvision}


def _torch_product(x: Tensor, weight: Tensor) -> Run:
    if weight.dim() > 2:
        return lambda: torch.matmul(x, weight)
    # A linear layer keeps its weight as [out, in].
    stored = weight.t().contiguous()

    def run() -> Tensor:
        with torch.inference_mode():
            return functional.linear(x, stored)

    return run


def _onnx_run(call: LayerCall, shape: Shape, setting: Setting) -> Run:
    """A file with one operator, in memory, for ONNX Runtime."""
    missing = [p for p in ('onnx', 'onnxruntime') if find_spec(p) is None]
    if missing:
        raise PruningError(
            f'backend={setting.backend!r} needs {", ".join(missing)}, which '
            'is not installed: pip install mmlapp[export]'
        )
    runtime: Any = import_module('onnxruntime')
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = setting.threads
    session = runtime.InferenceSession(
        onnx_layer(call, shape).SerializeToString(),
        options,
        providers=['CPUExecutionProvider'],
    )
    x = torch.rand(shape.inputs).numpy()
    return lambda: session.run(None, {'input': x})


def onnx_layer(call: LayerCall, shape: Shape) -> Any:
    """Returns an ONNX model of one layer.

    Args:
        call (LayerCall): The layer.
        shape (Shape): Its shapes.
    """
    onnx: Any = import_module('onnx')
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    values = {'weight': torch.rand(shape.weight)}
    if call.op == 'product':
        node = helper.make_node('MatMul', ['input', 'weight'], ['output'])
    else:
        if 'offset_groups' in call.geometry:
            values |= _places(call, shape.inputs[0])
        node = _onnx_convolution(call, shape, values)
    graph = helper.make_graph(
        [node],
        'layer',
        [helper.make_tensor_value_info('input', kind, shape.inputs)],
        [helper.make_tensor_value_info('output', kind, None)],
        [
            onnx.numpy_helper.from_array(value.numpy(), name)
            for name, value in values.items()
        ],
    )
    # The first opset that has deformable convolutions, too.
    return helper.make_model(
        graph, ir_version=9, opset_imports=[helper.make_opsetid('', 19)]
    )


def _onnx_convolution(
    call: LayerCall, shape: Shape, values: Mapping[str, Tensor]
) -> Any:
    """The operator of a convolution, plain, transposed or deformable."""
    pads = list(call.geometry['padding'])
    names, more = ['input', *values], {}
    kind = 'ConvTranspose' if _transposed(call) else 'Conv'
    if 'offset' in values:
        # Input, weight, offset, no bias, and perhaps factors.
        names.insert(3, '')
        kind = 'DeformConv'
        more = {'offset_group': call.geometry['offset_groups']}
    helper: Any = import_module('onnx').helper
    return helper.make_node(
        kind,
        names,
        ['output'],
        strides=list(call.geometry['stride']),
        # Before and behind of each dimension.
        pads=[*pads, *pads],
        dilations=list(call.geometry['dilation']),
        group=shape.groups,
        **more,
    )


BACKENDS: dict[str, Callable[[LayerCall, Shape, Setting], Run]] = {
    'torch': _torch_run,
    'onnxruntime': _onnx_run,
}
