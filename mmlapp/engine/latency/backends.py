# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What runs a whole network, by name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmlapp.core import PruningError

from ..export.base import Settings
from ..export.files import export, load
from ..export.outputs import output_tensors
from .setting import Setting

# Runs the network on its images once more.
Run = Callable[[], list[Tensor]]


def network_run(network: nn.Module, images: Tensor, setting: Setting) -> Run:
    """Returns a function that runs a network and returns its outputs.

    Args:
        network (nn.Module): Maps images to tensors in any containers; in
            evaluation mode.
        images (Tensor): What it is run on, ``[n, c, h, w]``.
        setting (Setting): Backend and threads; those of torch are set
            elsewhere (:func:`~.timing.threads_of_torch`).

    Raises:
        PruningError: If a package is missing, or the backend cannot run the
            network.
    """
    return BACKENDS[setting.backend](network, images, setting)


def _eager(network: nn.Module, images: Tensor, setting: Setting) -> Run:
    def run() -> list[Tensor]:
        with torch.inference_mode():
            return output_tensors(network(images))

    return run


def _compiled(network: nn.Module, images: Tensor, setting: Setting) -> Run:
    # For this one shape, as a deployed network would be compiled.
    compiled = torch.compile(network, dynamic=False)

    def run() -> list[Tensor]:
        with torch.no_grad():
            return output_tensors(compiled(images))

    # Compiles now, and not in a round that is timed.
    run()
    return run


def _onnxruntime(network: nn.Module, images: Tensor, setting: Setting) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = _onnx_file(network, images, folder)
        session = load(path, setting.threads)
    # The file may go: the session has read it.
    return lambda: session(images)


def _openvino(network: nn.Module, images: Tensor, setting: Setting) -> Run:
    if find_spec('openvino') is None:
        raise PruningError(
            "backend='openvino' needs openvino, which is not installed: pip "
            'install openvino'
        )
    openvino: Any = import_module('openvino')
    with tempfile.TemporaryDirectory() as folder:
        model = openvino.Core().compile_model(
            _onnx_file(network, images, folder),
            'CPU',
            {'INFERENCE_NUM_THREADS': setting.threads},
        )
    x = images.numpy()
    return lambda: [torch.from_numpy(v) for v in model([x]).values()]


def _onnx_file(network: nn.Module, images: Tensor, folder: str) -> Path:
    path = Path(folder, 'network.onnx')
    export(network, images, path, settings=Settings(dynamic='none'))
    return path


BACKENDS: dict[str, Callable[[nn.Module, Tensor, Setting], Run]] = {
    'torch': _eager,
    'compile': _compiled,
    'onnxruntime': _onnxruntime,
    'openvino': _openvino,
}
