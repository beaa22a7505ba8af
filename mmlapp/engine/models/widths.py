# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Widths of what a narrow backbone gives, for the config of what reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmlapp.core import PruningError


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
    if len(found) == 1:
        return f'in_channels={found[0]}'
    return f'in_channels={found}' if found else ''


def backbone_widths(backbone: nn.Module, input_shape: Sequence[int]) -> str:
    """Returns :func:`output_widths` of a backbone on a blank image.

    Args:
        backbone (nn.Module): A module that takes images.
        input_shape (Sequence[int]): Channels, height and width.

    Raises:
        PruningError: If it does not run.
    """
    device = next(backbone.parameters()).device
    image = torch.zeros(1, *input_shape, device=device)
    try:
        return output_widths(backbone, '', lambda: backbone(image))
    except Exception as error:
        raise PruningError(
            f'the narrowed {type(backbone).__name__} does not run on an image '
            f'of input_shape={tuple(input_shape)} ({type(error).__name__}: '
            f'{error}). Set input_shape to what it reads, and the arguments '
            'of the backbone to those that it was pruned with'
        ) from error


def _counts(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 1


def _width(tensor: Tensor) -> int:
    # [n, width, ...], or tokens [n, number, width].
    return tensor.shape[-1 if tensor.dim() == 3 else 1]
