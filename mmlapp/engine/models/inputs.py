# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a model is run on: random inputs of a shape, or a user's own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from mmlapp.core import PruningError
from mmlapp.registry import FUNCTIONS

from .arguments import check_shape

# Of one tensor; of several by name; or a registered function as a dictionary
# of its ``type`` and its arguments.
InputShape = Sequence[int] | Mapping[str, Any]


@dataclass(frozen=True)
class Batch:
    """Arguments of a model's forward, but for the mode.

    Args:
        args (tuple): By position.
        kwargs (dict): By name.
        own (bool): Whether they are a user's own, which nothing is added
            to. Defaults to False.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    own: bool = False


def fresh(value: Any) -> Any:
    """Copies arguments, for models write into what they get.

    Args:
        value (Any): Tensors and samples in nested containers.
    """
    return tree_map(
        lambda x: x.clone() if isinstance(x, Tensor) else copy.deepcopy(x),
        value,
    )


def shape_text(input_shape: InputShape) -> str:
    """Names a shape in reports.

    Args:
        input_shape (Sequence[int] or Mapping): See :func:`example_batch`.

    Examples:
        >>> shape_text((3, 8, 8)), shape_text({'rgb': (3, 8, 8)})
        ('3x8x8', 'rgb 3x8x8')
        >>> shape_text({'type': 'two_views'})
        'two_views'
    """
    if not isinstance(input_shape, Mapping):
        return 'x'.join(map(str, input_shape))
    if 'type' in input_shape:
        return str(input_shape['type'])
    return ', '.join(
        f'{name} {shape_text(shape)}' for name, shape in input_shape.items()
    )


def example_batch(model: nn.Module, input_shape: InputShape) -> Batch:
    """Makes inputs of a model, the same at every call.

    Args:
        model (nn.Module): It tells where the inputs lie.
        input_shape (Sequence[int] or Mapping): Shape of one random input
            without its batch dimension; a dictionary of such shapes for a
            model that reads a dictionary; or ``type`` and arguments of a
            function in ``mmlapp.registry.FUNCTIONS`` that returns all
            arguments of the forward but for the mode, as a dictionary or a
            tuple.

    Returns:
        Batch: Arguments of the forward.

    Raises:
        PruningError: If it describes no input.
    """
    shape = check_shape(input_shape)
    device = next(model.parameters()).device
    if isinstance(shape, dict) and 'type' in shape:
        given = _from_function(shape)
        given = tree_map_only(Tensor, lambda t: t.to(device), given)
        if isinstance(given, Mapping):
            return Batch((), dict(given), own=True)
        return Batch(tuple(given), own=True)
    # Of its own: the same input at every call, and no number drawn from the
    # run.
    generator = torch.Generator().manual_seed(0)

    def image(sizes: tuple[int, ...]) -> Tensor:
        return torch.rand(1, *sizes, generator=generator).to(device)

    if isinstance(shape, dict):
        return Batch(({name: image(s) for name, s in shape.items()},))
    return Batch((image(shape),))


def _from_function(config: Mapping[str, Any]) -> Any:
    try:
        found = FUNCTIONS.build(dict(config))
    except KeyError as error:
        raise PruningError(
            f'input_shape={dict(config)!r}: there is no function of this '
            'name in mmlapp.registry.FUNCTIONS. Decorate it with '
            '@FUNCTIONS.register_module() and import its module, with '
            'custom_imports in a config'
        ) from error
    if not isinstance(found, (Mapping, tuple, list)) or not found:
        raise PruningError(
            f'input_shape={dict(config)!r}: the function returned '
            f'{type(found).__name__}, expected a dictionary or a tuple of '
            "the arguments of the model's forward"
        )
    return found
