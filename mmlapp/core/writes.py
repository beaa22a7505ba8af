# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a forward writes into a network, undone without copying all of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What hands out memory, in which others then write unseen.
HANDING_OUT = frozenset(
    {
        Tensor.numpy,
        Tensor.__array__,
        Tensor.untyped_storage,
        Tensor.storage,
        Tensor.__dlpack__,
    }
)


class _HandedOut(TorchFunctionMode):
    """Tells of a tensor before its memory is handed out.

    Args:
        tell (Callable): Is given the tensor.
    """

    def __init__(self, tell: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs a function, after it was told what it hands out."""
        if func in HANDING_OUT:
            self.tell(args[0])
        return func(*args, **(kwargs or {}))


class Values:
    """The values of tensors, copied when they are about to be written.

    Args:
        tensors (Iterable[Tensor]): What to remember.

    Examples:
        >>> x = torch.zeros(2)
        >>> before = Values([x])
        >>> before.about_to_write([x])
        >>> _ = x.add_(1)
        >>> before.restore(), x
        (True, tensor([0., 0.]))
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        # An alias keeps its values if other data take the place of a
        # tensor's: (tensor, alias), by storage.
        self._before: dict[int, list[tuple[Tensor, Tensor]]]
        self._before = defaultdict(list)
        for tensor in tensors:
            if tensor.layout is torch.strided:
                self._before[storage_of(tensor)].append(
                    (tensor, tensor.detach())
                )
        self._written: list[tuple[Tensor, Tensor]] = []

    def about_to_write(self, values: Iterable[Any]) -> None:
        """Copies what shares its storage with something that is written.

        Args:
            values (Iterable): Tensors among them: views of parameters, too.
        """
        for value in values:
            if isinstance(value, Tensor) and value.layout is torch.strided:
                for owner, alias in self._before.pop(storage_of(value), []):
                    self._written.append((owner, alias.clone()))

    def restore(self) -> bool:
        """Gives all tensors their values back; True if any had others."""
        changed = bool(self._written)
        with torch.no_grad():
            for tensor, value in self._written:
                tensor.copy_(value)
            for storage, pairs in self._before.items():
                for tensor, alias in pairs:
                    if storage_of(tensor) != storage:
                        tensor.copy_(alias)
                        changed = True
        return changed


class CopyOnWrite(TorchDispatchMode):
    """Remembers the values of tensors before an operator writes them.

    Args:
        tensors (Iterable[Tensor]): What to remember.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._values = Values(tensors)
        self._handed_out = _HandedOut(
            lambda tensor: self._values.about_to_write([tensor])
        )

    def __enter__(self) -> CopyOnWrite:
        self._handed_out.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._handed_out.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs an operator, after what it writes was copied."""
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            self._values.about_to_write(tree_leaves((args, kwargs)))
        return func(*args, **kwargs)

    def restore(self) -> None:
        """Gives all tensors their values back."""
        self._values.restore()


def storage_of(tensor: Tensor) -> int:
    """Returns what tells the storage of a tensor.

    Args:
        tensor (Tensor): A sparse one has several, and no views: itself.
    """
    if tensor.layout is not torch.strided:
        return id(tensor)
    # Asked for by nobody but us.
    with torch._C.DisableTorchFunction():
        return int(tensor.untyped_storage()._cdata)
