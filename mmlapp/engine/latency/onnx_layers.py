# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One layer as a model of ONNX, and in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mmlapp.core import PruningError
from mmlapp.core.trace import LayerCall

from .deformable import places
from .setting import Setting
from .shapes import Shape, is_transposed


def onnx_run(
    call: LayerCall, shape: Shape, setting: Setting
) -> Callable[[], object]:
    """Returns a function that runs one layer in ONNX Runtime, from memory.

    Args:
        call (LayerCall): The layer.
        shape (Shape): Its shapes.
        setting (Setting): Number of threads.

    Raises:
        PruningError: If ONNX Runtime is not installed.
    """
    missing = [p for p in ('onnx', 'onnxruntime') if find_spec(p) is None]
    if missing:
        raise PruningError(
            f'backend={setting.backend!r} needs {", ".join(missing)}, which '
            'is not installed: pip install mmlapp[export]'
        )
    runtime: Any = import_module('onnxruntime')
    options = runtime.SessionOptions()
    # Errors alone.
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
            values |= places(call, shape.inputs[0])
        node = _onnx_convolution(call, shape, values)
    graph = helper.make_graph(
        [node],
        'layer',
        [helper.make_tensor_value_info('input', kind, shape.inputs)],
        # Of a shape that the runtime infers.
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
    kind = 'ConvTranspose' if is_transposed(call) else 'Conv'
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
