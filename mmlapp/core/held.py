# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Parameters that modules hold in attributes of their own as well.

An averaged model, for one, keeps a dictionary of the parameters that it
updates. What is in it must be what the network computes with.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

# What a module keeps in dictionaries of its own.
STORES = '_parameters', '_buffers', '_modules'
# Those that are looked into; others may do something when they are read.
DICTIONARIES = dict, OrderedDict, defaultdict
KINDS = Tensor, dict, list, tuple
# What no tensor is in, such as the size of a kernel.
PLAIN = frozenset({int, float, bool, str, type(None)})
# What every module has: settings and hooks of PyTorch.
OWN = frozenset(vars(nn.Module()))

Place = tuple[int, int, tuple[int, ...]]


def place_of(tensor: Tensor) -> Place:
    """Where the values of a tensor lie; an alias lies at the same place.

    Args:
        tensor (Tensor): A whole parameter or buffer.
    """
    if tensor.layout is not torch.strided:
        return id(tensor), 0, tuple(tensor.shape)
    storage = tensor.untyped_storage()._cdata
    return storage, int(tensor.storage_offset()), tuple(tensor.shape)


# A module, the name of an attribute, and a tensor or what holds some.
Holder = tuple[nn.Module, str, Any]


def holders_in(modules: Iterable[nn.Module]) -> list[Holder]:
    """Returns attributes with tensors that are no parameter or buffer.

    Args:
        modules (Iterable[nn.Module]): All modules of a network.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> layer.size, layer.seen = (2, 1), [layer.weight]
        >>> [name for _, name, _ in holders_in([layer])]
        ['seen']
    """
    return [
        (module, key, value)
        for module in modules
        for key, value in vars(module).items()
        # Nearly all are PyTorch's own, or numbers.
        if key not in OWN
        and isinstance(value, KINDS)
        and _any(value, lambda tensor: True)
    ]


def replace_held(
    holders: Iterable[Holder], replaced: Mapping[Place, Tensor]
) -> None:
    """Puts new tensors into attributes that hold old ones.

    Containers that change are new ones: whoever kept the old one has it.

    Args:
        holders (Iterable[Holder]): From :func:`holders_in`.
        replaced (Mapping): New tensor by the place of the old one.
    """

    def renew(tensor: Tensor) -> Tensor:
        new = replaced.get(place_of(tensor))
        if new is None:
            return tensor
        # As in a state dict, what is no parameter shares its values.
        return new if isinstance(tensor, nn.Parameter) else new.detach()

    for module, key, value in holders:
        if _any(value, lambda tensor: place_of(tensor) in replaced):
            module.__dict__[key] = tree_map_only(Tensor, renew, value)


def _any(value: Any, true: Callable[[Tensor], bool]) -> bool:
    """Whether something is true of any tensor in a container."""
    if isinstance(value, Tensor):
        return true(value)
    if type(value) in DICTIONARIES:
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return False
    # Nearly always plain numbers: there is no need to look at each.
    if PLAIN.issuperset(map(type, value)):
        return False
    return any(_any(part, true) for part in value)
