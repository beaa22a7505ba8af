# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What hooks of a user hold of the model as it was, as wide as that was."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set, ValuesView
from typing import Any

from mmengine.runner import Runner
from torch import Tensor, nn

from ..checkpoints.reading import PREFIX
from ..models.weight_names import WRAPPED
from .best_scores import EVENT
from .parts import unwrap

COPY = 'and those of now do not fit them'
REPLACED = 'which the model has no longer'
CONTAINERS = dict, list, tuple, deque, Set, ValuesView
# How deep these lie in each other: groups of an optimizer are dictionaries
# with lists in a list.
DEPTH = 3


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Returns what narrowing may replace: parameters and buffers.

    Args:
        model (nn.Module): The model, prunable or narrow.
    """
    named = (*model.named_parameters(), *model.named_buffers())
    return [each for name, each in named if not name.startswith(PREFIX)]


def warn_of_copies(runner: Runner, before: Iterable[Tensor]) -> None:
    """Names hooks that hold weights of the model as it was before narrowing.

    An average of a hook's own would fail at its next update, with the shapes
    of two tensors alone, and what a hook does to parameters that it has kept
    would change nothing. Hooks that are told of the end of the phase can make
    it anew.

    Args:
        runner (Runner): The runner, whose model and averages are narrow.
        before (Iterable[Tensor]): What :func:`tensors_of` the wide model
            returned.
    """
    inner = unwrap(runner.model)
    model, left = inner.state_dict(), set(map(id, tensors_of(inner)))
    replaced = {id(tensor) for tensor in before} - left
    for hook in runner.hooks:
        kind = type(hook)
        # A teacher of our own is to stay as it is.
        if hasattr(hook, EVENT) or kind.__module__.startswith('mmlapp.'):
            continue
        found = (
            (name, _outdated(value, model, replaced))
            for name, value in vars(hook).items()
        )
        held = next(((n, reason) for n, reason in found if reason), None)
        if held is not None:
            runner.logger.warning(
                f'Pruning: {kind.__name__}.{held[0]} has weights of the model '
                f'as it was before it was narrowed, {held[1]}. If it is to '
                f'follow the model, give the hook a method {EVENT}(runner) '
                'that makes it anew, or set narrow=False in '
                'mmlapp.PruningHook'
            )


def _outdated(
    value: Any, model: Mapping[str, Any], replaced: set[int]
) -> str | None:
    """Says why what a hook holds is of the model as it was, if it is."""
    for each in _inside(value):
        if _differs(each, model):
            return COPY
        own = tensors_of(each) if isinstance(each, nn.Module) else [each]
        if any(id(tensor) in replaced for tensor in own):
            return REPLACED
    return None


def _inside(value: Any) -> Iterator[Any]:
    """Yields a value and, where it is a container, what lies in it."""
    level, seen = [value], set()
    for _ in range(DEPTH):
        yield from level
        containers = [v for v in level if isinstance(v, CONTAINERS)]
        # Each once: they may contain themselves.
        new = {id(v): v for v in containers if id(v) not in seen}
        seen |= set(new)
        level = [part for v in new.values() for part in _parts(v)]
    yield from level


def _parts(container: Any) -> Iterator[Any]:
    """Keys, too: states are kept by parameter."""
    yield from container
    if isinstance(container, dict):
        # As they are: a config builds what is lazy in it when it is asked.
        yield from dict.values(container)


def _differs(value: Any, model: Mapping[str, Any]) -> bool:
    """Whether something has tensors of the model by name in other shapes."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if not isinstance(value, Mapping):
        return False
    for name, tensor in value.items():
        own = model.get(str(name).removeprefix(WRAPPED))
        if not isinstance(own, Tensor) or not isinstance(tensor, Tensor):
            continue
        if own.shape != tensor.shape:
            return True
    return False
