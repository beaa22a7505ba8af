# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Widths of what a narrow backbone gives, for the config of what reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmlapp.core import PruningError

from .inputs import InputShape, example_batch, shape_text


def output_widths(model: nn.Module, name: str, run: Callable[[], Any]) -> str:
    """Returns the widths of all outputs of a part, as a config says them.

    Args:
        model (nn.Module): The model.
        name (str): Name of the part in it; empty for the model itself.
        run (Callable): Runs the model on an example.

    Returns:
        str: Such as ``in_channels=[24, 51, 90]``; empty if the part gives no
        features.
    """
    found: list[int] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        # The last call counts, of a part that runs several times.
        found[:] = [_width(t) for t in tree_leaves(output) if _counts(t)]

    handle = model.get_submodule(name).register_forward_hook(note)
    training = model.training
    try:
        with torch.no_grad():
            model.eval()
            run()
    finally:
        model.train(training)
        handle.remove()
    # Necks take a list of several levels, heads the number of one.
    if len(found) == 1:
        return f'in_channels={found[0]}'
    return f'in_channels={found}' if found else ''


def backbone_widths(backbone: nn.Module, input_shape: InputShape) -> str:
    """Returns :func:`output_widths` of a backbone on a random image.

    Args:
        backbone (nn.Module): A module that takes images.
        input_shape (Sequence[int] or Mapping): See
            :func:`~.inputs.example_batch`.

    Raises:
        PruningError: If it does not run.
    """
    batch = example_batch(backbone, input_shape)

    def run() -> Any:
        return backbone(*batch.args, **batch.kwargs)

    try:
        return output_widths(backbone, '', run)
    except Exception as error:
        raise PruningError(
            f'the narrowed {type(backbone).__name__} does not run on an image '
            f'of input_shape={shape_text(input_shape)} '
            f'({type(error).__name__}: {error}). Set input_shape to what it '
            'reads, and the arguments of the backbone to those that it was '
            'pruned with'
        ) from error


def _counts(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 1


def _width(tensor: Tensor) -> int:
    # [n, width, ...], or tokens [n, number, width].
    return tensor.shape[-1 if tensor.dim() == 3 else 1]
