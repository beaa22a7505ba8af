# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""TorchScript, which libtorch and mobile runtimes load."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .base import (
    Exporter,
    Run,
    Settings,
    load_operators,
    register_exporter,
    without_warnings,
)
from .functions import plain_functions


@register_exporter('torchscript')
class TorchScript(Exporter):
    """What a network did on the example, as ``torch.jit.trace`` notes it.

    A trace is open in every dimension that Python code did not read.
    """

    suffix = '.torchscript'

    def write(
        self,
        network: nn.Module,
        images: Tensor,
        path: Path,
        names: Sequence[str],
        settings: Settings,
    ) -> None:
        """See :meth:`Exporter.write`; the outputs have no names."""
        # In memory first: where a disk is full, torch ends the process.
        file = io.BytesIO()
        with without_warnings(), plain_functions(), torch.no_grad():
            # Not checked by torch: the file is compared afterwards, and on
            # other inputs as well.
            traced: Any = torch.jit.trace(network, images, check_trace=False)
            torch.jit.save(traced, file)
        path.write_bytes(file.getvalue())

    def load(self, path: Path, threads: int | None = None) -> Run:
        """See :meth:`Exporter.load`; threads are those of torch."""
        load_operators()
        with without_warnings(), path.open('rb') as file:
            module = torch.jit.load(file, map_location='cpu')

        def run(images: Tensor) -> list[Tensor]:
            with torch.no_grad():
                return list(module(images))

        return run
