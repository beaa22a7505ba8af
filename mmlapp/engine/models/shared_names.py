# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Names of what a model has under several ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


class FirstNames:
    """The first of the names of a layer or tensor, which is that of plans.

    A state dict has tensors of a layer that is registered in several places,
    as ``share_conv`` of mmdet's heads does, under all of their names, and so
    it has tied weights.

    Args:
        model (nn.Module): The model.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> first = FirstNames(nn.Sequential(layer, nn.ReLU(), layer))
        >>> first('2.weight'), first('2.bypass.conv.weight')
        ('0.weight', '0.bypass.conv.weight')
    """

    def __init__(self, model: nn.Module) -> None:
        modules: dict[int, str] = {}
        self._modules: dict[str, str] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            first = modules.setdefault(id(module), name)
            if first != name:
                self._modules[name] = first
        self._tensors = first_names(model.state_dict(keep_vars=True))

    def __call__(self, name: str) -> str:
        """Returns the first name of a tensor, of the model or a narrow one.

        Args:
            name (str): As a state dict has it.
        """
        for owner in _owners(name):
            if owner in self._modules:
                name = self._modules[owner] + name[len(owner) :]
                break
        return self._tensors.get(name, name)


def first_names(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Returns the first of the names of each tensor, by all of its names.

    Args:
        tensors (Mapping[str, Any]): The very objects, by which tied ones are
            found: a state dict made with ``keep_vars=True``.
    """
    first: dict[int, str] = {}
    return {n: first.setdefault(id(t), n) for n, t in tensors.items()}


def _owners(name: str) -> Iterator[str]:
    """Names of the modules that a tensor is in, from the nearest one on."""
    while name := name.rpartition('.')[0]:
        yield name
