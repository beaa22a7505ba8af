# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""ONNX, by the exporter of torch that is built on ``torch.export``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmlapp.core import PruningError

from .base import (
    DYNAMIC,
    OPSET,
    Exporter,
    Run,
    Settings,
    check_packages,
    register_exporter,
    without_warnings,
)
from .decompositions import decomposed
from .torch_export import exported_program

INPUT = 'input'
# How torch calls an open dimension.
SYMBOL = re.compile(r'\bs\d+\b')
# Operators that came after OPSET, and when.
SINCE = {'torchvision.deform_conv2d.default': 19}


@register_exporter('onnx')
class Onnx(Exporter):
    """One file without external data, which ONNX's own checker accepts."""

    suffix = '.onnx'
    needs = 'onnx', 'onnxscript', 'onnxruntime'
    # Kernels of another library sum in another order.
    tolerance = 1e-3
    takes = 'dynamic', 'fp16', 'opset', 'slim'

    def write(
        self,
        network: nn.Module,
        images: Tensor,
        path: Path,
        names: Sequence[str],
        settings: Settings,
    ) -> None:
        """See :meth:`Exporter.write`.

        Raises:
            PruningError: If the file would be of another opset, or OnnxSlim
                is wanted and not installed.
        """
        if settings.slim:
            check_packages('onnx', ['onnxslim'])
        onnx: Any = import_module('onnx')
        program = decomposed(exported_program(network, images, settings))
        opset = _opset(program, settings.opset)
        with without_warnings(), torch.no_grad():
            # Said explicitly: torch and mmdeploy disagree about the default.
            model = torch.onnx.export(
                program,
                (images,),
                input_names=[INPUT],
                output_names=list(names),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            ).model_proto
            if settings.slim:
                model = import_module('onnxslim').slim(model)
        _check_opset(model, opset)
        _name_axes(model.graph, DYNAMIC[settings.dynamic])
        onnx.save(model, path)
        onnx.checker.check_model(path, full_check=True)

    def load(self, path: Path, threads: int | None = None) -> Run:
        """See :meth:`Exporter.load`; runs it on the CPU."""
        check_packages('onnx', ['onnxruntime'])
        runtime: Any = import_module('onnxruntime')
        options = runtime.SessionOptions()
        # Errors alone.
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        session = runtime.InferenceSession(
            str(path), options, providers=['CPUExecutionProvider']
        )
        name = session.get_inputs()[0].name

        def run(images: Tensor) -> list[Tensor]:
            found = session.run(None, {name: images.detach().numpy()})
            return [torch.from_numpy(value) for value in found]

        return run


def _opset(program: Any, asked: int | None) -> int:
    """Which opset a graph is written in.

    Raises:
        PruningError: If the one that was asked for lacks an operator.
    """
    targets = {str(node.target) for node in program.graph.nodes}
    # Operator by the opset that it needs: {18: '', 19: 'torchvision...'}.
    least = {OPSET: '', **{v: n for n, v in SINCE.items() if n in targets}}
    opset = max(least)
    if asked is None:
        return opset
    if opset > OPSET and asked < opset:
        raise PruningError(
            f'opset={asked}: ONNX has {least[opset]} from opset {opset} on. '
            'Give that, or none'
        )
    return asked


def _check_opset(model: Any, opset: int) -> None:
    """The exporter keeps its own where it cannot convert, and says nothing."""
    found = [
        e.version for e in model.opset_import if e.domain in ('', 'ai.onnx')
    ]
    if found != [opset]:
        raise PruningError(
            f'opset={opset}: torch {torch.__version__} writes this network '
            f'in opset {found[0]} alone. Give that, or {OPSET}, the default'
        )


def _name_axes(graph: Any, axes: Mapping[int, str]) -> None:
    """Calls open dimensions by our names instead of numbered symbols.

    An input [s77, 3, 32*s89, 32*s99] makes them batch, height and width here
    and in every shape that depends on them.
    """
    dims = graph.input[0].type.tensor_type.shape.dim
    names = {
        symbol: name
        for axis, name in axes.items()
        for symbol in SYMBOL.findall(dims[axis].dim_param)
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField('dim_param'):
                dim.dim_param = SYMBOL.sub(
                    lambda found: names.get(found[0], found[0]), dim.dim_param
                )
