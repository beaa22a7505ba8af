# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Predictions of a model from outputs that another program computed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from mmlapp.core import PruningError

from ..export.network import Network
from ..latency.backends import Run


class Feeding:
    """A copy of a model whose head gets its outputs from elsewhere.

    The model predicts as ever; what the module returned that gives the
    outputs of the network, a head, is replaced. The rest, such as the second
    stage of a detector, is computed by torch.

    Args:
        network (Network): The part of the model that runs elsewhere.
        run (Callable): Runs it there.
        images (Tensor): What is read at each run, ``[n, c, h, w]``.

    Raises:
        PruningError: If no module returns the outputs of the network, or
            images of another size come; and at the end if it ran never.
    """

    def __init__(self, network: Network, run: Run, images: Tensor) -> None:
        # A copy: the head of the caller's model keeps its forward.
        own = network.of(copy.deepcopy(network.model))
        self.model: Any = own.model
        self._head = _head(own, images)
        self._run, self._images = run, images
        self._inputs: Tensor | None = None
        self._fed, self._stack = False, ExitStack()

    def __enter__(self) -> Any:
        """Returns the copy."""
        self.model.register_forward_pre_hook(self._see, with_kwargs=True)
        self._stack.enter_context(_through(self._head, self._put))
        return self.model

    def __exit__(self, kind: Any, *error: Any) -> None:
        """Refuses a model whose predictions are made in another way."""
        self._stack.close()
        # Only without another error, which this would hide.
        if kind is None and not self._fed:
            raise PruningError(
                f'{type(self.model).__name__} predicts without what its '
                f'{type(self._head).__name__} returns'
            )

    def _see(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = kwargs.get('inputs', args[0] if args else None)
        size = list(self._images.shape[1:])
        if not isinstance(inputs, Tensor) or list(inputs.shape[1:]) != size:
            found = list(getattr(inputs, 'shape', ()))[1:]
            raise PruningError(
                f'it runs on images of {size} there, and those of the test '
                f'data are {found}'
            )
        self._inputs = inputs

    def _put(self, module: nn.Module, output: Any) -> Any:
        assert self._inputs is not None  # the model ran before its head
        leaves, spec = tree_flatten(output)
        found = self._outputs(self._inputs)
        own = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if [t.shape for t in found] != [t.shape for t in own]:
            raise PruningError(
                f'{type(module).__name__} returns other outputs where it '
                'predicts'
            )
        self._fed, new = True, iter(found)
        leaves = [
            next(new).to(leaf) if isinstance(leaf, Tensor) else leaf
            for leaf in leaves
        ]
        return tree_unflatten(leaves, spec)

    def _outputs(self, inputs: Tensor) -> list[Tensor]:
        """Of any number of images, each ``[images, ...]``."""
        parts = []
        for some in inputs.split(len(self._images)):
            # The last ones may be fewer than are read at once.
            self._images.zero_()[: len(some)] = some
            parts.append([out[: len(some)].clone() for out in self._run()])
        return [torch.cat(each) for each in zip(*parts, strict=True)]


def _head(network: Network, images: Tensor) -> nn.Module:
    """The outermost module in a model that returns what its network does."""
    calls: list[tuple[nn.Module, list[Any]]] = []

    def note(module: nn.Module, output: Any) -> Any:
        calls.append((module, tree_leaves(output)))
        return output

    # Not the model itself, which returns something else where it predicts.
    inner = [m for m in network.model.modules() if m is not network.model]
    with ExitStack() as stack, torch.no_grad():
        for module in inner:
            stack.enter_context(_through(module, note))
        outputs = tree_leaves(network(images))
    # Those inside of a module return before it does.
    for module, found in reversed(calls):
        # By identity: equal values may be those of another module.
        if list(map(id, found)) == list(map(id, outputs)):
            return module
    raise PruningError('no module of it returns the outputs of the network')


@contextmanager
def _through(
    module: nn.Module, change: Callable[[nn.Module, Any], Any]
) -> Iterator[None]:
    """Lets a function change what a module returns, for a while.

    Not by a hook: models call ``forward`` itself, too.
    """
    own, kept = module.forward, module.__dict__.get('forward')

    def forward(*args: Any, **kwargs: Any) -> Any:
        return change(module, own(*args, **kwargs))

    module.__dict__['forward'] = forward
    try:
        yield
    finally:
        del module.__dict__['forward']
        if kept is not None:
            module.__dict__['forward'] = kept
