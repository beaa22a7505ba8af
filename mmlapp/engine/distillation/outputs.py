# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What modules of a model put out during one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmlapp.core import PruningError
from mmlapp.core.arguments import meant

from ..training.compiled import Uncompiled


class _Complete(BaseException):
    """Ends a forward of which everything is known that was asked for.

    No ``Exception``: models and examples try one way after the other.
    """


def find_module(model: nn.Module, name: str, said: str) -> nn.Module:
    """Returns a module by its name.

    Args:
        model (nn.Module): The model.
        name (str): Qualified name of the module.
        said (str): What the model is called in the error text.

    Raises:
        PruningError: If there is none, with the names that there are.
    """
    modules = dict(model.named_modules())
    if name not in modules or not name:
        children = ', '.join(dict(model.named_children()))
        hint = meant(name, modules)
        raise PruningError(
            f'losses={name!r}: {said}, {type(model).__name__}, has no module '
            f'of that name; {hint}{" " if hint else ""}its children are '
            f'{children}'
        )
    return modules[name]


class Outputs:
    """Notes what modules of a model put out, while it is told to.

    A copy of the model has the hooks of this, and they do nothing: they
    belong to the modules of the original.

    Args:
        model (nn.Module): The model.
        names (Iterable[str]): Qualified names of the modules.
        said (str): What the model is called in error texts.
        compiled (bool): Whether the forward is compiled, which noting stays
            out of. Defaults to False.

    Raises:
        PruningError: If a module does not exist.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str],
        said: str,
        compiled: bool = False,
    ) -> None:
        self.said = said
        self._modules = {n: find_module(model, n, said) for n in names}
        self._found: dict[str, list[list[Tensor]]] | None = None
        note = Uncompiled(self._note) if compiled else self._note
        self._handles = [
            module.register_forward_hook(note)
            for module in self._modules.values()
        ]
        # Only while :meth:`of` runs.
        self._stops = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Outputs:
        return self

    def begin(self) -> None:
        """Begins to note, and forgets what was noted before."""
        self._found = {name: [] for name in self._modules}

    def end(self) -> dict[str, list[Tensor]]:
        """Ends noting.

        Returns:
            dict[str, list[Tensor]]: By name of the module the tensors that
            it has put out.

        Raises:
            PruningError: If one ran never, or more than once.
        """
        # Given away: these tensors hold the graph of a step.
        found, self._found = self._found or {}, None
        for name, values in found.items():
            # Of several it is not known which one the teacher's belongs to.
            if len(values) != 1:
                raise PruningError(
                    f'losses={name!r}: the module of {self.said} ran '
                    f'{len(values)} times in a forward, expected once. '
                    'Name another module'
                )
        return {name: values[0] for name, values in found.items()}

    def of(self, forward: Callable[[], Any]) -> dict[str, list[Tensor]]:
        """Runs a forward as far as it takes to know all outputs.

        Args:
            forward (Callable): Runs the model.

        Returns:
            dict[str, list[Tensor]]: See :meth:`end`.
        """
        self.begin()
        with self._stopping():
            forward()
        return self.end()

    def remove(self) -> None:
        """Takes the hooks off the modules."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        self._stops = True
        try:
            yield
        except _Complete:
            pass
        finally:
            self._stops = False

    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._found is None:
            return
        for name, own in self._modules.items():
            if own is module:
                self._found[name].append(_tensors(output))
        # What lies behind would compute for nobody.
        if self._stops and all(self._found.values()):
            raise _Complete


def _tensors(output: Any) -> list[Tensor]:
    # Copies: a rectifier or a sum behind the module may work in place.
    leaves = tree_leaves(output)
    return [leaf.clone() for leaf in leaves if isinstance(leaf, Tensor)]
