# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Outputs of a network as a list of tensors, and their names."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Sequence
from itertools import chain
from itertools import count as counting
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import (
    MappingKey,
    tree_flatten_with_path,
    tree_leaves,
)

from mmlapp.core import PruningError


def output_tensors(output: Any) -> list[Tensor]:
    """Returns all tensors of an output, in order.

    Args:
        output (Any): Tensors in any containers.
    """
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


class _Flat(nn.Module):
    """A network whose outputs are one tuple of tensors.

    Args:
        network (nn.Module): The network.
        half (bool): Whether it computes in half precision.
    """

    def __init__(self, network: nn.Module, half: bool) -> None:
        super().__init__()
        # Not `half`, which is a method of every module.
        self.network, self.half_ = network, half

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Runs it."""
        # Half precision is inside alone: who runs the file gives and gets
        # float32.
        output = self.network(images.half() if self.half_ else images)
        found = output_tensors(output)
        # Classes, places and masks stay whole numbers and booleans.
        return tuple(
            t.float() if self.half_ and t.dtype == torch.half else t
            for t in found
        )


def flat(network: nn.Module, half: bool = False) -> nn.Module:
    """Returns a network whose outputs are one tuple of tensors.

    Args:
        network (nn.Module): Maps images to tensors in any containers.
        half (bool): Whether it computes in half precision; inputs and
            outputs stay float32. Defaults to False.
    """
    # A copy: halved parameters would stay so in the network of the caller.
    own = _Flat(copy.deepcopy(network).half() if half else network, half)
    own.eval()
    return own


@torch.no_grad()
def outputs_of(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Returns all output tensors of a network, in order.

    Args:
        network (nn.Module): In evaluation mode.
        images (Tensor): ``[n, c, h, w]``.
    """
    # A copy: some networks normalise what they are given in place.
    return output_tensors(network(images.clone()))


def default_names(count: int) -> list[str]:
    """Returns names of outputs.

    Args:
        count (int): Of the outputs.

    Examples:
        >>> default_names(1), default_names(2)
        (['output'], ['output_0', 'output_1'])
    """
    if count == 1:
        return ['output']
    return [f'output_{i}' for i in range(count)]


def key_names(output: Any, taken: Collection[str] = ()) -> list[str]:
    """Returns names of outputs by their keys, where there are mappings.

    Args:
        output (Any): Tensors in any containers.
        taken (Collection[str]): Names of other things in the file. Defaults
            to none.

    Returns:
        list[str]: Identifiers of C, which ONNX asks for, in the order of
        :func:`output_tensors`.

    Examples:
        >>> one = torch.ones(1)
        >>> key_names({'cat': one, 'dog': {'kind': one, 'boxes': [one, one]}})
        ['cat', 'dog_kind', 'dog_boxes_0', 'dog_boxes_1']
        >>> key_names([one, one])
        ['output_0', 'output_1']
    """
    leaves, _ = tree_flatten_with_path(output)
    paths = [path for path, leaf in leaves if isinstance(leaf, Tensor)]
    if not any(isinstance(key, MappingKey) for path in paths for key in path):
        return default_names(len(paths))
    names: list[str] = []
    for path in paths:
        text = _identifier('_'.join(map(_key_text, path)))
        # Keys that differ in other characters alone, or as 'a_b' and a, b.
        further = (f'{text}_{i}' for i in counting(1))
        candidates = chain([text], further)
        used = {*names, *taken}
        names.append(next(name for name in candidates if name not in used))
    return names


def _key_text(key: Any) -> str:
    """Of a mapping, a sequence, or a tuple with names."""
    kind = next(n for n in ('key', 'idx', 'name') if hasattr(key, n))
    return str(getattr(key, kind))


def _identifier(text: str) -> str:
    plain = re.sub(r'\W', '_', text, flags=re.ASCII)
    return plain if re.match('[A-Za-z]', plain) else f'output_{plain}'


def checked_names(names: Sequence[str] | None, count: int) -> Sequence[str]:
    """Returns the names that were given, if there is one for each output.

    Args:
        names (Sequence[str], optional): None stands for the default ones.
        count (int): Of the outputs.

    Raises:
        PruningError: If there are more or less, or two are the same.
    """
    if names is None:
        return default_names(count)
    if len(set(names)) != count:
        raise PruningError(
            f'names={list(names)}: expected {count} different ones, one for '
            'each output of the network'
        )
    return names
