# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Parameters that modules hold in attributes of their own as well.

An averaged model, for one, keeps a dictionary of the parameters that it
updates. What is in it must be what the network computes with.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

# What a module keeps in dictionaries of its own.
STORES = '_parameters', '_buffers', '_modules'
# Those that are looked into; others may do something when they are read.
DICTIONARIES = dict, OrderedDict, defaultdict
KINDS = Tensor, dict, list, tuple
# What every module has: settings and hooks of PyTorch.
OWN = frozenset(vars(nn.Module()))

Place = tuple[int, int, tuple[int, ...]]


def place_of(tensor: Tensor) -> Place:
    """Where the values of a tensor lie; an alias lies at the same place.

    Args:
        tensor (Tensor): A whole parameter or buffer.
    """
    storage = tensor.untyped_storage()._cdata
    return storage, int(tensor.storage_offset()), tuple(tensor.shape)


def replace_held(
    modules: Iterable[nn.Module], replaced: Mapping[Place, Tensor]
) -> None:
    """Puts new tensors into attributes that hold old ones.

    Containers that change are new ones: whoever kept the old one has it.

    Args:
        modules (Iterable[nn.Module]): All modules of a network, whose own
            tensors are new already.
        replaced (Mapping): New tensor by the place of the old one.
    """

    def renew(tensor: Tensor) -> Tensor:
        new = replaced.get(place_of(tensor))
        if new is None:
            return tensor
        # As in a state dict, what is no parameter shares its values.
        return new if isinstance(tensor, nn.Parameter) else new.detach()

    for module in modules:
        # Nearly all are PyTorch's own, or numbers.
        filled = [
            (key, value)
            for key, value in vars(module).items()
            if key not in OWN
            and isinstance(value, KINDS)
            and (isinstance(value, Tensor) or value)
        ]
        for key, value in filled:
            if _holds(value, replaced):
                module.__dict__[key] = tree_map_only(Tensor, renew, value)


def _holds(value: Any, replaced: Mapping[Place, Tensor]) -> bool:
    if isinstance(value, Tensor):
        return place_of(value) in replaced
    if type(value) in DICTIONARIES:
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return False
    return any(_holds(part, replaced) for part in value)
