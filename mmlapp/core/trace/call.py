# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One operator call, and the tensors in what a network returns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


@dataclass
class Call:
    """One operator call as a rule sees it.

    Args:
        op (str): Name of the operator, ``aten::relu``.
        func (OpOverload): The operator.
        args (Sequence): Its arguments by position.
        kwargs (dict): Its arguments by name.
        out (Any): What it returned.
        shape (tuple[int, ...]): Shape of the first argument before the call,
            which may change it: ``squeeze_``. Defaults to none.
    """

    op: str
    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    out: Any
    shape: tuple[int, ...] = ()

    @cached_property
    def _tensors(self) -> list[Tensor]:
        return list(operands(self.args, self.kwargs))

    def tensors(self) -> list[Tensor]:
        """Returns the tensor arguments, in order."""
        return self._tensors

    def outputs(self) -> list[Tensor]:
        """Returns the tensor results, in order."""
        return [
            leaf for leaf in tree_leaves(self.out) if isinstance(leaf, Tensor)
        ]

    def written(self) -> list[Tensor]:
        """Returns the tensors that the operator changes in place."""
        return [
            value
            for index, argument in enumerate(self.func._schema.arguments)
            # Tensor(a!) in the schema is written, Tensor(a) only viewed; a
            # list of tensors may be written as a whole.
            if argument.alias_info is not None and argument.alias_info.is_write
            for value in tree_leaves(self.argument(index, argument.name))
            if isinstance(value, Tensor)
        ]

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """Returns an argument given by position or by name."""
        if index < len(self.args):
            return self.args[index]
        return self.kwargs.get(name, default)


def operands(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[Tensor]:
    """Tensors that an operator is given: alone or in a list, no deeper.

    Args:
        args (Sequence): Its arguments by position.
        kwargs (Mapping): Its arguments by name.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (part for part in value if isinstance(part, Tensor))


def tensors_in(outputs: Any) -> Iterator[Tensor]:
    """Tensors in nested containers and in the attributes of objects."""
    return (leaf for leaf in leaves_in(outputs) if isinstance(leaf, Tensor))


def leaves_in(outputs: Any) -> Iterator[Any]:
    """What is in nested containers and objects, which are leaves as well.

    Args:
        outputs (Any): Of a network; containers of any class.

    Examples:
        >>> class Features(dict):
        ...     pass
        >>> [leaf for leaf in leaves_in([1, Features(a=2)]) if leaf in (1, 2)]
        [1, 2]
    """
    pending, seen = [outputs], set()
    while pending:
        for leaf in tree_leaves(pending.pop()):
            if isinstance(leaf, Tensor):
                yield leaf
            elif id(leaf) not in seen and not isinstance(leaf, type):
                seen.add(id(leaf))
                yield leaf
                pending.append(list(_parts(leaf)))


def _parts(value: Any) -> Iterator[Any]:
    """What an object holds: PyTorch looks into its own containers alone.

    Not into heirs of them, nor into sets and what has slots for attributes.
    """
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (list, tuple, deque, Set)):
        yield from value
    yield from getattr(value, '__dict__', {}).values()
    for kind in type(value).__mro__:
        slots = vars(kind).get('__slots__', ())
        for name in [slots] if isinstance(slots, str) else slots:
            yield getattr(value, name, None)
