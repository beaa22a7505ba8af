# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which views cut channels into heads of attention.

A view of ``C`` channels as ``[heads, C / heads]`` lets either whole heads go
or the same position of every head. Which one is right tells what comes
after: where queries are compared with keys, over the width of a head, the
number of heads may change and their width may not. A network is therefore
traced once more where such a view was met.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .counted import Divisor, Width
from .graph import NO_CHANNEL, ChannelGraph
from .labels import Axis

# Module that runs, number of a view in it, and which dimension of its input
# has the channels.
Place = tuple[str, int, int]


@dataclass(frozen=True)
class Cut:
    """A view that cuts one dimension of channels into several.

    Args:
        labels (Tensor): Of what it returns, of size one along dimensions
            that tell no channels apart.
        varying (tuple[int, ...]): The dimensions that do.
        keep (int): The one that can shrink.
        heads (bool): Whether it is known to count heads.
    """

    labels: Tensor
    varying: tuple[int, ...]
    keep: int
    heads: bool

    def neighbour(self) -> int:
        """The dimension that counts heads if the one that is kept does not.

        Of ``[3, heads, C / heads]`` that before the last one, which is the
        nearest.
        """
        others = [d for d in self.varying if d != self.keep]
        before = [d for d in others if d < self.keep]
        return before[-1] if before else others[0]

    def parts(self) -> Iterator[Tensor]:
        """Labels that have one head each for every head, as queries have.

        Of ``[3, heads, C / heads]`` three times ``heads * C / heads``.
        """
        # Dimensions before that of the heads count parts.
        heads = self.labels.movedim(self.keep, -1)
        before = self.labels.shape[: self.keep]
        yield from heads.reshape(before.numel(), -1)

    def whole(self) -> Tensor:
        """Labels of one part, ``[heads, width]``; the last one: values."""
        *_, part = self.parts()
        # [width * heads] -> [heads, width]
        return part.view(-1, self.labels.shape[self.keep]).T


@dataclass
class Heads:
    """What one pass over a network tells about its heads.

    Args:
        chosen (Mapping[Place, int]): Views that cut into heads, from the
            pass before, and which dimension of their output counts these.
            Defaults to none.

    Attributes:
        cuts (dict[Place, Cut]): All views that cut channels.
        over (list[Tensor]): Labels over which activations are compared.
        beside (list[Tensor]): Labels for each of which they are.
        values (list[Tensor]): Labels of what is mixed by what they give.
        unpaired (list[Tensor]): Labels of what meets heads and is not known
            to have some.
        rows (list[Tensor]): Nodes of queries and keys in modules that are
            followed as a whole.
        whole (list[Tensor]): Labels of the heads of these, each ``[heads,
            width]``.
        single (list[Tensor]): Labels of queries and keys of a single head
            whose scale is computed from their width, which stays.
        fitted (dict[str, Tensor]): Modules that take the width of heads
            from a shape, and the labels ``[heads, width]`` of a part.
        divisors (list[Divisor]): Attributes by which a width was divided to
            compute with the quotient, as the scale of queries.
    """

    chosen: Mapping[Place, int] = field(default_factory=dict)
    cuts: dict[Place, Cut] = field(default_factory=dict)
    over: list[Tensor] = field(default_factory=list)
    beside: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    unpaired: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    whole: list[Tensor] = field(default_factory=list)
    single: list[Tensor] = field(default_factory=list)
    fitted: dict[str, Tensor] = field(default_factory=dict)
    divisors: list[Divisor] = field(default_factory=list)
    # Sizes that the view which runs at the moment was asked for, if known,
    # and whether it cuts channels into heads.
    sizes: Sequence[Any] | None = None
    cutting: bool = False
    views: Counter[str] = field(default_factory=Counter)

    def next_view(self, module: str) -> int:
        """Numbers the views of a module, in the same way in every pass.

        Args:
            module (str): Name of the module that is running.
        """
        self.views[module] += 1
        return self.views[module]

    def begin_view(self, sizes: Sequence[Any] | None) -> None:
        """Is told of a function before it runs.

        Args:
            sizes (Sequence, optional): What it asks for if it is a view.
        """
        self.sizes, self.cutting = sizes, False

    def cut(
        self,
        place: Place,
        rank: int,
        labels: Tensor,
        varying: Sequence[int],
        keep: int,
    ) -> tuple[int, bool]:
        """Notes a view that cuts channels.

        Args:
            place (Place): Which one.
            rank (int): Number of dimensions of what it returns.
            labels (Tensor): See :class:`Cut`.
            varying (Sequence[int]): See there.
            keep (int): What tells most channels apart.

        Returns:
            tuple[int, bool]: Which dimension can shrink, and whether it
            counts heads.
        """
        wanted = self.chosen.get(place)
        heads = wanted in varying and self._follows(wanted, rank)
        if heads and wanted is not None:
            keep, self.cutting = wanted, True
        self.cuts[place] = Cut(labels, tuple(varying), keep, heads)
        return keep, heads

    def _follows(self, dim: int | None, rank: int) -> bool:
        """Whether a size is known to count, or what is left of the others.

        It is an attribute, or all of a dimension of another tensor.
        """
        if self.sizes is None or dim is None or len(self.sizes) != rank:
            return False
        size = self.sizes[dim]
        if not isinstance(size, Width):
            return bool(size == -1)
        return bool(size.source.attribute) or size.times == size.parts == 1

    def fits(self, module: str, axis: Axis | None) -> bool:
        """Whether a size that is that of another tensor is one of heads.

        The view gets another one then, when there are fewer; see
        :mod:`mmlapp.core.attention.fitted`.

        Args:
            module (str): Name of the module that is running.
            axis (Axis, optional): What the size is the size of.
        """
        # It counts the heads themselves.
        if axis is not None and axis.grid is not None:
            return False
        # All channels of each head: they go together.
        joined = axis is not None and len(axis.ids.unique()) < len(axis.ids)
        if not self.chosen or not (self.cutting or joined):
            return False
        for (name, *_), cut in self.cuts.items():
            if cut.heads and name == module:
                self.fitted[module] = cut.whole()
        return module in self.fitted

    def fits_single(
        self, graph: ChannelGraph
    ) -> Callable[[str, Tensor, Tensor], bool]:
        """Whether a size is the width of a single head, which stays.

        Args:
            graph (ChannelGraph): Of this pass.

        Returns:
            Callable: Is given the name of the module that asks for the size,
            and labels of what it is the size of and of what it counts, which
            shrinks by itself then: the view gets another size.
        """
        if not self.single:
            return lambda module, ids, counted: False
        root = graph.resolve()
        stay = _components(root, self.single)

        def fits(module: str, ids: Tensor, counted: Tensor) -> bool:
            mine = _of(root, ids)
            if not mine or not mine <= stay or _of(root, counted) <= stay:
                return False
            self.fitted.setdefault(module, ids.view(1, -1))
            return True

        return fits

    def choose(self, graph: ChannelGraph) -> dict[Place, int]:
        """Returns the views that cut into heads, for the next pass.

        Args:
            graph (ChannelGraph): Of this pass.
        """
        if not self.cuts or not (self.over or self.beside):
            return {}
        root = graph.resolve()
        over = _components(root, self.over)
        beside = _components(root, self.beside)
        found = {}
        for place, cut in self.cuts.items():
            kept = _of(root, cut.labels)
            if kept & beside:
                found[place] = cut.keep
            elif kept & over:
                found[place] = cut.neighbour()
        return found

    def more(self, graph: ChannelGraph) -> dict[Place, int]:
        """Returns views that cut into heads as well, for they meet some.

        Values that are wider than there are heads, of a layer of their own.

        Args:
            graph (ChannelGraph): Of this pass.
        """
        if not self.unpaired:
            return {}
        root = graph.resolve()
        met = _components(root, self.unpaired)
        return {
            place: cut.neighbour()
            for place, cut in self.cuts.items()
            if not cut.heads and _of(root, cut.labels) & met
        }

    def lost(self, graph: ChannelGraph) -> set[Place]:
        """Returns the views whose heads are none: no product goes by them.

        Args:
            graph (ChannelGraph): Of this pass.
        """
        cuts = {place: cut for place, cut in self.cuts.items() if cut.heads}
        if not cuts:
            return set()
        root = graph.resolve()
        met = _components(root, [*self.beside, *self.values])
        return {p for p, c in cuts.items() if not _of(root, c.labels) & met}

    def all(self) -> Iterator[Tensor]:
        """Labels of what was cut into heads, each ``[heads, width]``."""
        yield from self.whole
        yield from (c.whole() for c in self.cuts.values() if c.heads)

    def dividing(self, graph: ChannelGraph) -> set[str]:
        """Returns attributes whose quotients are always the width of a head.

        Those by which something is divided that does not shrink with heads,
        and nothing of which a head has more or fewer than its width: what
        shrinks with them is divided right by fewer.

        Args:
            graph (ChannelGraph): Of this pass.
        """
        numbers = [
            (n, size.source.labels(), size) for n, size in self.divisors
        ]
        root = graph.resolve() if numbers else _NONE
        other, wider = set(), set()
        for name, ids, size in numbers:
            heads = self.fitted.get(name.rpartition('.')[0], _NO_HEADS)
            if not _of(root, ids) <= _of(root, heads):
                other.add(name)
            elif int(size) != heads.shape[1]:
                wider.add(name)
        return other - wider

    def compared(self, graph: ChannelGraph) -> Tensor:
        """Nodes of queries and keys, which nothing but comparisons read.

        Of ``q k^T`` and what follows a removed head leaves nothing, for it
        has no values.

        Args:
            graph (ChannelGraph): Of this pass.
        """
        found = [_NONE, *self.rows]
        if self.chosen:
            root = graph.resolve()
            read = set(torch.cat([*self.over, *self.beside, _NONE]).tolist())
            mixed = torch.cat([*self.values, _NONE])
            # Their values are those of the same heads.
            known, own = _of(root, mixed), set(mixed.tolist())
            found += [
                part
                for cut in self.cuts.values()
                if cut.heads
                for part in cut.parts()
                if read & (ids := set(part.tolist()))
                and not ids & own
                and _of(root, part) <= known
            ]
        nodes = torch.cat(found)
        kept: Tensor = nodes[nodes != NO_CHANNEL].unique()
        return kept


_NONE = torch.zeros(0, dtype=torch.int64)
_NO_HEADS = _NONE.view(0, 1)


def _of(root: Tensor, labels: Tensor) -> set[int]:
    ids = labels[labels != NO_CHANNEL]
    return set(root[ids].unique().tolist())


def _components(root: Tensor, all_labels: Sequence[Tensor]) -> set[int]:
    return _of(root, torch.cat([_NONE, *all_labels]))
