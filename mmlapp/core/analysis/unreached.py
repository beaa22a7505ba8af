# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Modules that the example does not reach, and what becomes of them.

They are followed through other ways in which the network runs, tied to what
they copy, or else refused: nobody could say which of their inputs vanish.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import PruningError, PruningWarning
from ..groups import Groups
from ..patterns import matches
from ..trace import Trace, running_modules, trace
from ..trace.copies import Copy, find_copies, tie_copies
from ..trace.hearing import hear
from .stages import ask_in_training
from .ways import Way, in_its_mode, kept

TRAINING = 'the example in training mode'
# Longest list of modules in a message.
SHOWN = 8


class UnreachedError(PruningError):
    """A module may read what is pruned, and no forward reaches it.

    Args:
        reason (str): Which ones.
        remedy (str): What to say if they do not.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason, self.remedy = reason, remedy
        super().__init__(
            f'{reason}. Give also=[...] with functions that run the network '
            f'so that it reaches them, or {remedy}'
        )


@dataclass
class Reach:
    """Which modules ran in which way.

    Args:
        ways (dict[str, list[str]]): For every way beside the example what
            it alone reached, in order.
        untraced (dict[str, str]): Ways whose channels could not be followed,
            and why: they run on trial alone.
        copies (list[Copy]): Modules that follow others.
        left (list[str]): Tensors that nothing reached.
    """

    ways: dict[str, list[str]] = field(default_factory=dict)
    untraced: dict[str, str] = field(default_factory=dict)
    copies: list[Copy] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def follow(
    model: nn.Module,
    forward: Callable[[], Any],
    record: Trace,
    ways: Sequence[Way],
    unused: Sequence[str] = (),
) -> tuple[Trace, Reach]:
    """Traces a network again, in as many ways as its modules need.

    A way is traced beside the example if it reaches what no way before it
    did. Where it does not, but may have code of its own that asks for numbers
    of channels, what it asks for is heard. Copies are tied to their originals.

    Args:
        model (nn.Module): The network.
        forward (Callable): Runs it on the example.
        record (Trace): Of the example alone; not to be used any more.
        ways (Sequence[Way]): How else it runs.
        unused (Sequence[str]): Patterns of modules that read nothing that is
            pruned. Defaults to none.

    Returns:
        tuple[Trace, Reach]: What was recorded and what was reached.

    Raises:
        PruningError: If a way does not run.
    """
    reach = Reach(left=_unread(model, record.order, record.read, unused))
    order, read = list(record.order), set(record.read)
    traced: list[Callable[[], Any]] = []
    heard: list[tuple[Way, Callable[[], Any]]] = []
    asks = ask_in_training(model.modules())
    training = Way(
        _as_far_as_it_goes(forward), TRAINING, train=True, followed=asks
    )
    for way in [*([training] if reach.left or asks else []), *ways]:
        asked = way.followed or (way.train and asks)
        if way.proven and not reach.left and not asked:
            continue  # there is nothing that it could reach
        run = in_its_mode(model, way)
        ran, found = _tried(model, way, run)
        order, read = [*order, *ran], read | found
        left = _unread(model, order, read, unused)
        new = [name for name in reach.left if name not in left]
        reach.left = left
        if not new:
            heard += [(way, run)] if asked else []
            continue
        reach.ways[way.name] = list(dict.fromkeys(map(_owner, new)))
        try:
            with kept(model):
                record = trace(model, forward, [*traced, run])
            traced.append(run)
        except Exception as error:
            reach.untraced[way.name] = f'{type(error).__name__}: {error}'
    for way, run in heard:
        try:
            with kept(model):
                hear(record, trace(model, run))
        except Exception as error:
            reach.untraced[way.name] = f'{type(error).__name__}: {error}'
    _follow_copies(model, record, reach, read, unused)
    return record, reach


def _tried(
    model: nn.Module, way: Way, run: Callable[[], Any]
) -> tuple[list[str], set[str]]:
    """Modules that run in a way, and the parameters that they read."""
    try:
        with kept(model):
            return _runs(model, run)
    except Exception as error:
        raise _does_not_run(way, error) from error


def _follow_copies(
    model: nn.Module,
    record: Trace,
    reach: Reach,
    read: set[str],
    unused: Sequence[str],
) -> None:
    """Ties copies, such as averages, to modules that were reached."""
    names = [name for name, _ in model.named_modules() if name]
    reach.copies = find_copies(
        model, record.order, [n for n in names if matches(n, unused)]
    )
    tie_copies(record, reach.copies)
    # What a module reads its copy would read, too.
    twins = {twin for copy in reach.copies for twin in copy.twins(read)}
    reach.left = [name for name in reach.left if name not in read | twins]


def _as_far_as_it_goes(forward: Callable[[], Any]) -> Callable[[], Any]:
    """A forward whose failure ends it: what it read before is known.

    Some networks refuse to be trained in their heads, or on one image.
    """

    def run() -> Any:
        with suppress(Exception):
            return forward()

    return run


def _does_not_run(way: Way, error: Exception) -> PruningError:
    return PruningError(
        f'{way.name} does not run ({type(error).__name__}: {error}). Give a '
        'function without arguments that runs the network'
    )


def _owner(name: str) -> str:
    return name.rpartition('.')[0]


class _Reads(TorchDispatchMode):
    """Notes which tensors operators read."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.ids.update(map(id, tree_leaves((args, kwargs))))
        return func(*args, **(kwargs or {}))


def _runs(
    model: nn.Module, run: Callable[[], Any]
) -> tuple[list[str], set[str]]:
    """Names of the modules that ran, and of the tensors that were read."""
    names = {module: name for name, module in model.named_modules()}
    order: list[str] = []
    reads = _Reads()
    with (
        running_modules(names, lambda module: order.append(names[module])),
        reads,
    ):
        run()
    return order, {n for n, t in _tensors(model) if id(t) in reads.ids}


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _unread(
    model: nn.Module,
    order: Iterable[str],
    read: set[str],
    unused: Sequence[str],
) -> list[str]:
    """Parameters, and statistics of norms that did not run, unread.

    Other buffers are tables of what the network computes with, not widths.
    """
    ran = set(order)
    # A single number has no width.
    found = [name for name, p in model.named_parameters() if p.numel() > 1]
    found += [
        name
        for name, buffer in model.named_buffers()
        if buffer.numel() > 1
        and _owner(name) not in ran
        and isinstance(model.get_submodule(_owner(name)), _NormBase)
    ]
    return [
        name
        for name in found
        if name not in read and not matches(name, unused)
    ]


def warn_of_idle_patterns(model: nn.Module, unused: Sequence[str]) -> None:
    """Warns of patterns of unused modules that are of none.

    Args:
        model (nn.Module): The network.
        unused (Sequence[str]): The patterns.
    """
    names = [name for name, _ in _tensors(model)] if unused else []
    for pattern in unused:
        if not any(matches(name, [pattern]) for name in names):
            roots = dict.fromkeys(name.partition('.')[0] for name in names)
            warnings.warn(
                f'unused={pattern!r} matches no parameter and no buffer. They '
                f'lie below: {", ".join(roots)}',
                PruningWarning,
                stacklevel=4,
            )


def check_reach(model: nn.Module, groups: Groups, reach: Reach) -> None:
    """Refuses a network of which a part may read what is pruned, unseen.

    What cannot fit any pruned tensor reads none and is only told.

    Args:
        model (nn.Module): The network.
        groups (Groups): What can be pruned.
        reach (Reach): What was reached.

    Raises:
        PruningError: With the modules and what to do.
    """
    if not reach.left:
        return
    shapes = {n: t.shape for n, t in _tensors(model) if n in reach.left}
    largest = max((size for s in shapes.values() for size in s), default=0)
    widths = possible_widths((g.size for g in groups.prunable), largest)
    risky = [
        name
        for name, shape in shapes.items()
        if any(size > 1 and widths >> size & 1 for size in shape)
    ]
    if risky:
        first = f'{risky[0]} {list(shapes[risky[0]])}'
        places = _places(model, risky, reach.left)
        raise UnreachedError(
            f'no forward reaches {_listed(places)} (such as {first}): what '
            'they read cannot be known, and it may be pruned',
            f'unused={places[:1]!r}, patterns of names, if they read nothing '
            'that is pruned: what feeds them stays whole with ignore=[...]',
        )
    places = _places(model, list(shapes), reach.left)
    warnings.warn(
        f'no forward reaches {_listed(places)}: they stay as they are. '
        'Their shapes fit nothing that is pruned',
        PruningWarning,
        stacklevel=2,
    )


def _places(
    model: nn.Module, names: Sequence[str], left: Sequence[str]
) -> list[str]:
    """Modules of which nothing is read, or single tensors, by name."""
    partly = {
        _owner(name)
        for name, _ in model.named_parameters()
        if name not in left
    }
    # The network itself has no name that a pattern could match.
    return list(
        dict.fromkeys(
            name if _owner(name) in {*partly, ''} else _owner(name)
            for name in names
        )
    )


def check_branches(names: Iterable[str], reach: Reach) -> None:
    """Refuses branches beside layers whose copies would have none.

    Args:
        names (Iterable[str]): Layers that get a branch.
        reach (Reach): What was reached.

    Raises:
        PruningError: With the first one.
    """
    _refuse_copied(
        names, reach, 'bypass', 'a branch', 'Prune without a bypass'
    )


def check_reshaped(names: Iterable[str], reach: Reach) -> None:
    """Refuses layers of another form whose copies would keep theirs.

    Args:
        names (Iterable[str]): Layers that get another form.
        reach (Reach): What was reached.

    Raises:
        PruningError: With the first one.
    """
    _refuse_copied(
        names, reach, 'unit', 'another form', "Take unit='channels'"
    )


def _refuse_copied(
    names: Iterable[str], reach: Reach, setting: str, gets: str, remedy: str
) -> None:
    """Refuses what a layer gets by a setting and its copy would not."""
    for name, copy in product(names, reach.copies):
        if matches(name, [copy.original]):
            raise PruningError(
                f'{setting}: {name} would get {gets} and {copy.name}, which '
                f'copies {copy.original}, would not. {remedy}, or leave it '
                f'alone: ignore=[{copy.original!r}]'
            )


def _listed(places: Sequence[str]) -> str:
    text = ', '.join(map(repr, places[:SHOWN]))
    more = len(places) - SHOWN
    return f'{text} and {more} more' if more > 0 else text


def possible_widths(sizes: Iterable[int], largest: int) -> int:
    """Widths of tensors that are made of groups, as bits of a number.

    Channels are concatenated, and flattened with the pixels that they have:
    every sum of sizes may occur, each as often as one likes.

    Args:
        sizes (Iterable[int]): Sizes of the groups.
        largest (int): Where to stop.

    Returns:
        int: Bit i is set where i is a possible width.

    Examples:
        >>> bits = possible_widths([4, 6], 12)
        >>> [i for i in range(13) if bits >> i & 1]
        [0, 4, 6, 8, 10, 12]
    """
    bits, limit = 1, (1 << largest + 1) - 1
    for size in set(sizes):
        step = size
        # Once, three times, seven times: doubling reaches every multiple.
        while step <= largest:
            bits |= bits << step & limit
            step *= 2
    return bits
