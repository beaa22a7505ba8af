# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a trace tells about a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .graph import ChannelGraph
from .paths import Path
from .thresholds import Remainder, Threshold

INPUT_REASON = 'meets a value that is no channel, such as the input image'


@dataclass(frozen=True)
class Site:
    """One dimension of one parameter, buffer or module attribute.

    Args:
        name (str): Qualified name, as in the state dict.
        dim (int): Dimension; 0 for an attribute.
        start (int): First channel node.
        size (int): Number of nodes, one per index.
        attribute (bool): Whether ``name`` is an integer attribute of a
            module (``layer.groups``) and not a tensor. Defaults to False.
    """

    name: str
    dim: int
    start: int
    size: int
    attribute: bool = False

    @property
    def module(self) -> str:
        """Name of the module that owns the tensor."""
        return self.name.rpartition('.')[0]


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer, or of a product of two computed tensors.

    What costs are counted from: they look up a handle by ``op``.

    Args:
        name (str): Name of the layer, or of the operator if it has none.
        op (str): ``convolution``, ``product`` (a linear layer included),
            ``embedding``, ``norm`` or ``bias``.
        dims (Mapping[str, Tensor]): Labels of each dimension that may
            shrink, by what it is for the call (``out``, ``in``, ``batch``,
            ``rows``, ``heads``), each ``[size]``; ``NO_CHANNEL`` entries stay.
        inputs (tuple[int, ...]): Shape of the input.
        weight (tuple[int, ...]): Shape of the weight; of a product that of
            its second factor, ``[..., in, out]``.
        outputs (tuple[int, ...]): Shape of the output.
        geometry (Mapping[str, Any]): ``groups``, ``transposed``, ``stride``,
            ``padding`` and ``dilation`` of a convolution; of a deformable
            one ``offset_groups`` too, whether it is ``masked``, and whose
            ``operator`` it is.
        pairs (tuple[Tensor, Tensor], optional): Labels of both ends of each
            pair of channels that a grouped layer joins, if its ends shrink
            independently: multiply-adds and weights are then a sum over
            pairs, not proportional to both ``dims``.
    """

    name: str
    op: str
    dims: Mapping[str, Tensor]
    inputs: tuple[int, ...]
    weight: tuple[int, ...]
    outputs: tuple[int, ...]
    geometry: Mapping[str, Any] = field(default_factory=dict)
    pairs: tuple[Tensor, Tensor] | None = None


@dataclass
class Maker:
    """A convolution or linear call and how its raw output is read."""

    sites: list[Site]
    raw: bool = False
    normed: bool = False


@dataclass(frozen=True)
class LivingModule:
    """A module that computes over its channels: it must see no removed one.

    Args:
        name (str): Qualified name.
        dim (int): Dimension of the channels in its input and output.
        ids (Tensor): Labels of its input, shape ``[size]``.
        out (Tensor): Labels of its output, shape ``[size]``.
        shape (tuple[int, ...]): Of its input; of several calls the least
            along each dimension.
    """

    name: str
    dim: int
    ids: Tensor
    out: Tensor
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Reduction:
    """A mean, maximum or the like over channels, of the living alone.

    Args:
        dim (int): Dimension of the channels.
        ids (Tensor): Their labels, shape ``[size]``.
    """

    dim: int
    ids: Tensor


def no_nodes() -> Tensor:
    """Returns nodes of nothing."""
    return torch.zeros(0, dtype=torch.int64)


@dataclass
class Trace:
    """What one forward told about a network's channels.

    Args:
        graph (ChannelGraph): All nodes and ties.
        sites (list[Site]): All dimensions that were met.
        producers (set[Site]): Sites that emit channels: the output side of
            convolutions, linear layers and embeddings.
        masked (set[Site]): Sites to multiply by the mask, so that a removed
            channel is exactly zero.
        readers (set[Site]): Input sides of layers that read channels which
            are not zero where removed, and must be masked there.
        trusting (set[Site]): Those that need no mask, for what they read is
            zero where removed.
        lasting (list[tuple[Tensor, int]]): Labels along dimensions, each
            ``[size]``, and how many indices must be left: two where a single
            one would vanish or say nothing.
        thresholds (list[Threshold]): How many indices must be left for code
            to branch as it did.
        remainders (list[Remainder]): What code divides and looks at what is
            left over.
        path (Path): Where the code of the network called PyTorch, and asked
            for numbers of channels.
        elements_counted (bool): Whether code asked how many elements a tensor
            with channels has, in a number that follows none of them.
        measured_nodes (Tensor): Labels along dimensions of which the
            network's own code asked for the size, each once.
        summed (list[Tensor]): Labels that a sum adds up, of each such sum or
            other reduction; ``[size]``.
        added (list[Tensor]): Labels to which others were added, each
            ``[size]``.
        returned (list[Tensor]): Labels of what the network returns, each
            ``[size]``.
        calls (list[LayerCall]): Layers and products, in order.
        further_calls (list[LayerCall]): Those of further ways in which the
            network runs. They read channels, and are not counted.
        norms (dict[str, str]): Layer to the scale of the norm right behind
            it.
        shifts (dict[str, str]): Layer to the shift of that norm, if it has
            one.
        living_modules (dict[str, LivingModule]): Modules that run on the
            living channels alone while others are masked.
        unknown (dict[str, int]): Operators without a rule, with the number
            of labelled tensors that they read.
        irregular (dict[str, str]): Convolutions whose own forward is not one
            plain call of a weight that nobody else reads, and what it is:
            nothing can run beside them.
        measured (set[str]): Convolutions whose weight or bias somebody else
            asks for its size.
        order (list[str]): Names of the modules, in the order in which they
            began to run.
        widths (dict[str, list[Tensor]]): Qualified names of attributes that
            count channels, and the labels of those at every call.
        read (set[str]): Parameters and buffers that an operator read.
        compared (Tensor): Nodes of queries and keys of heads, which need no
            mask: what they give is multiplied by values that are zero.
        heads (list[Tensor]): Labels of channels that are heads of attention,
            each ``[heads, width]``.
        fitted (dict[str, Tensor]): Modules that take the width of heads from
            that of their input, and the labels of one part of their heads,
            head by head: ``[heads, width]``.
        divisors (set[str]): Qualified names of attributes by which they
            divide to compute with that width.
        reductions (dict[tuple[str, str], Reduction]): What is reduced over
            channels, by the module and the place in its code.
        writes (bool): Whether a forward changed values of parameters or
            buffers. They are what they were before.
    """

    graph: ChannelGraph = field(default_factory=ChannelGraph)
    sites: list[Site] = field(default_factory=list)
    producers: set[Site] = field(default_factory=set)
    masked: set[Site] = field(default_factory=set)
    readers: set[Site] = field(default_factory=set)
    trusting: set[Site] = field(default_factory=set)
    lasting: list[tuple[Tensor, int]] = field(default_factory=list)
    thresholds: list[Threshold] = field(default_factory=list)
    remainders: list[Remainder] = field(default_factory=list)
    path: Path = field(default_factory=Path)
    elements_counted: bool = False
    measured_nodes: Tensor = field(default_factory=no_nodes)
    summed: list[Tensor] = field(default_factory=list)
    added: list[Tensor] = field(default_factory=list)
    returned: list[Tensor] = field(default_factory=list)
    calls: list[LayerCall] = field(default_factory=list)
    further_calls: list[LayerCall] = field(default_factory=list)
    norms: dict[str, str] = field(default_factory=dict)
    shifts: dict[str, str] = field(default_factory=dict)
    living_modules: dict[str, LivingModule] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    irregular: dict[str, str] = field(default_factory=dict)
    measured: set[str] = field(default_factory=set)
    order: list[str] = field(default_factory=list)
    widths: dict[str, list[Tensor]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    compared: Tensor = field(default_factory=no_nodes)
    heads: list[Tensor] = field(default_factory=list)
    fitted: dict[str, Tensor] = field(default_factory=dict)
    divisors: set[str] = field(default_factory=set)
    reductions: dict[tuple[str, str], Reduction] = field(default_factory=dict)
    writes: bool = False

    def note_living(self, living: LivingModule) -> None:
        """Notes a module that computes over channels, at each of its calls.

        Args:
            living (LivingModule): How it was called.
        """
        known = self.living_modules.get(living.name)
        if known is not None:
            self.graph.unite(known.ids, living.ids, INPUT_REASON)
            least = tuple(map(min, known.shape, living.shape))
            living = replace(living, shape=least)
        self.living_modules[living.name] = living

    def nodes_of(self, name: str, dim: int, size: int) -> Tensor:
        """Returns the nodes of one dimension; -1 where it has none.

        Args:
            name (str): Qualified name of the tensor.
            dim (int): The dimension.
            size (int): Its size.
        """
        for site in self.sites:
            if site.name == name and site.dim == dim:
                # Index i of the dimension is the node start + i.
                return torch.arange(site.start, site.start + site.size)
        return torch.full((size,), -1)
