# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Tensors that several backwards may run through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class Lasting(Function):
    """Stands for a tensor, whose graph it runs by itself and keeps.

    A backward frees what it has run through. A value that all parts of a
    forward read is run through several times: each part that is checkpointed
    with ``use_reentrant=True`` has a backward of its own.
    """

    @staticmethod
    def forward(ctx: Any, value: list[Tensor], *leaves: Tensor) -> Tensor:
        """Returns the value.

        Args:
            ctx (Any): Autograd context.
            value (list[Tensor]): The tensor, in a list: autograd does not
                see it there, and so not its graph.
            *leaves (Tensor): What its gradient reaches.
        """
        ctx.value, ctx.leaves = value[0], leaves
        # Only tensors among the arguments get a gradient: the value in its
        # list does not, its leaves do.
        return value[0].detach().clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the leaves, with a graph if asked to."""
        found = torch.autograd.grad(
            ctx.value,
            ctx.leaves,
            grads,
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
        return None, *found


def lasting(value: Tensor) -> Tensor:
    """Returns a tensor of the same value and gradients, for many backwards.

    Args:
        value (Tensor): Any shape. One without a graph is returned itself.

    Examples:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> y = lasting(x.square())
        >>> (2 * y).backward()
        >>> (3 * y).backward()
        >>> x.grad
        tensor(30.)
    """
    # Compilers and torch.func differentiate on their own.
    if (
        value.grad_fn is None
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
    ):
        return value
    found: Tensor = Lasting.apply([value], *leaves_of(value))
    return found


def leaves_of(value: Tensor) -> list[Tensor]:
    """Returns what the gradient of a tensor is accumulated in, each once.

    Args:
        value (Tensor): A tensor with a graph.
    """
    todo: list[Any] = [value.grad_fn]
    seen, found = set(todo), []
    while todo:
        node = todo.pop()
        # Only nodes that accumulate a gradient have one.
        if (leaf := getattr(node, 'variable', None)) is not None:
            found.append(leaf)
        further = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= further
        todo.extend(further)
    return found
