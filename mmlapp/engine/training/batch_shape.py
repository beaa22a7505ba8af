# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The image at which costs are counted, beside those that are trained on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from mmengine.runner import Runner
from torch import Tensor, nn

from ..checkpoints.random_state import random_state, set_random_state
from .parts import unwrap

# Sizes differ from batch to batch, within this factor of the area.
FACTOR = 2.0


def compare_shapes(
    runner: Runner, input_shape: Sequence[int] | None, batch: Any
) -> None:
    """Warns if costs are counted at another size than that of the data.

    Args:
        runner (Runner): The runner of the training process.
        input_shape (Sequence[int], optional): Channels, height and width at
            which costs are counted; None if unknown.
        batch (Any): A batch of the data loader; it stays as it is.
    """
    if input_shape is None or batch is None:
        return
    found = image_shape(_preprocessed(unwrap(runner.model), batch))
    counted = tuple(input_shape)
    if found is None or similar(counted, found):
        return
    # Height times width: (3, 224, 224) beside (3, 64, 64) is 12.25.
    times = prod(counted[1:]) / prod(found[1:])
    runner.logger.warning(
        f'Pruning: input_shape={counted}, but images of the first batch are '
        f'{found} after the data preprocessor. FLOPs are counted at '
        f'{times:.3g} times their area, and the target is a fraction of that. '
        f'Set input_shape={found} in mmlapp.PrunableModel'
    )


def similar(counted: Sequence[int], found: Sequence[int]) -> bool:
    """Whether two shapes have the same channels and a similar area.

    Args:
        counted (Sequence[int]): Channels, height and width.
        found (Sequence[int]): Others.

    Examples:
        >>> similar((3, 800, 1333), (3, 800, 1088))
        True
        >>> similar((3, 224, 224), (3, 64, 64))
        False
    """
    times = prod(counted[1:]) / prod(found[1:])
    return counted[0] == found[0] and 1 / FACTOR <= times <= FACTOR


def image_shape(inputs: Any) -> tuple[int, ...] | None:
    """Returns the shape of images: channels, height and width.

    Args:
        inputs (Any): What a model reads: images, ``[N, C, H, W]``, a list of
            several views of them, or a list of images, ``[C, H, W]``, of
            which the largest sizes count.

    Returns:
        tuple[int, ...] or None: None if they are something else.
    """
    images = [inputs] if isinstance(inputs, Tensor) else inputs
    if not isinstance(images, (list, tuple)) or not images:
        return None
    if not all(isinstance(i, Tensor) and i.dim() in (3, 4) for i in images):
        return None
    if isinstance(inputs, Tensor) and inputs.dim() == 3:
        return None  # no batch
    # [..., C, H, W] -> (C, H, W), the largest of each
    sizes = zip(*(image.shape[-3:] for image in images), strict=True)
    return tuple(map(max, sizes))


def _preprocessed(model: nn.Module, batch: Any) -> Any:
    """What the model would read; random numbers go on as if it had not."""
    state = random_state()
    try:
        preprocess: Any = model.data_preprocessor
        # Without what it does in training alone, such as mixup. A copy: it may
        # write into the batch, which is trained on next.
        data = preprocess(copy.deepcopy(batch), False)
    finally:
        set_random_state(state)
    # That of MMEngine returns what it gets: a tuple of inputs and labels stays
    # one.
    return data.get('inputs') if isinstance(data, Mapping) else data[0]
