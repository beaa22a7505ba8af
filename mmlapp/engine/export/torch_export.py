# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Graphs of ``torch.export``, which load where torch is installed."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .base import (
    Exporter,
    Run,
    Settings,
    load_operators,
    open_dimensions,
    register_exporter,
    without_warnings,
)
from .functions import plain_functions
from .known_sizes import known_sizes

# Within which a network is followed.
WITHIN = without_warnings, plain_functions, known_sizes, torch.no_grad


def exported_program(
    network: nn.Module,
    images: Tensor,
    settings: Settings,
    check: Callable[[Any, int], None] = lambda program, step: None,
) -> Any:
    """Returns the graph of a network.

    Args:
        network (nn.Module): Maps images to a tuple of tensors.
        images (Tensor): An example.
        settings (Settings): Which dimensions are open.
        check (Callable): Raises if a graph, whose heights and widths are to
            be multiples of a number, is not good enough. Defaults to none.

    Raises:
        Exception: What torch raises if it cannot follow the network.
    """
    first: Exception | None = None
    for step, dims in open_dimensions(images, settings):
        try:
            with ExitStack() as stack:
                for each in WITHIN:
                    stack.enter_context(each())
                # Not strict: Python runs as it stands, where Dynamo does not
                # know all of what OpenMMLab's models do.
                program = torch.export.export(
                    network, (images,), dynamic_shapes=(dims,), strict=False
                )
                check(program, step)
            return program
        except Exception as error:
            # The least restricted attempt says best what stands in the way.
            first = first or error
    assert first is not None  # there is always an attempt
    raise first


@register_exporter('torch_export')
class TorchExport(Exporter):
    """For ``torch.export.load``, AOTInductor and ExecuTorch."""

    suffix = '.pt2'

    def write(
        self,
        network: nn.Module,
        images: Tensor,
        path: Path,
        names: Sequence[str],
        settings: Settings,
    ) -> None:
        """See :meth:`Exporter.write`; the outputs have no names."""

        def check(program: Any, step: int) -> None:
            # It may hold sizes for impossible that it was told to be open.
            if settings.dynamic == 'size' and step > 1:
                height, width = images.shape[2:]
                # Another proportion, too, which tells height from width.
                size = height + step, width + 2 * step
                program.module()(interpolate(images[:1], size))

        program = exported_program(network, images, settings, check)
        # In memory first: where a disk is full, torch ends the process.
        file = io.BytesIO()
        with without_warnings():
            torch.export.save(program, file)
        path.write_bytes(file.getvalue())

    def load(self, path: Path, threads: int | None = None) -> Run:
        """See :meth:`Exporter.load`; threads are those of torch."""
        load_operators()
        with without_warnings(), path.open('rb') as file:
            module = torch.export.load(file).module()

        def run(images: Tensor) -> list[Tensor]:
            with torch.no_grad():
                return list(module(images))

        return run
