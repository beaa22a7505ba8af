# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a trace tells about a network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .graph import ChannelGraph

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
class FlopsTerm:
    """Multiply-adds of one call: a constant times some channel counts.

    Args:
        name (str): Name of the layer, or of the operator if it has none.
        constant (int): What does not depend on channels.
        factors (tuple[Tensor, ...]): Labels of each dimension that may
            shrink, each of shape ``[size]``; ``NO_CHANNEL`` entries stay.
        kind (str): ``convolution``, ``product`` or ``attention``. Defaults
            to ``product``.
        pairs (tuple[Tensor, Tensor], optional): Both ends of each pair of
            channels that a grouped layer joins; ``constant`` is then that
            of one pair.
    """

    name: str
    constant: int
    factors: tuple[Tensor, ...]
    kind: str = 'product'
    pairs: tuple[Tensor, Tensor] | None = None

    @property
    def dense(self) -> int:
        """Multiply-adds with all channels."""
        return self.constant * math.prod(f.numel() for f in self.factors)


@dataclass
class Maker:
    """A convolution or linear call and how its raw output is read."""

    sites: list[Site]
    raw: bool = False
    normed: bool = False


@dataclass(frozen=True)
class Compact:
    """A module that computes over its channels: it must see no removed one.

    Args:
        name (str): Qualified name.
        dim (int): Dimension of the channels in its input and output.
        ids (Tensor): Labels of its input, shape ``[size]``.
        out (Tensor): Labels of its output, shape ``[size]``.
    """

    name: str
    dim: int
    ids: Tensor
    out: Tensor


@dataclass
class Trace:
    """What one forward told about a network's channels.

    Args:
        graph (ChannelGraph): All nodes and ties.
        sites (list[Site]): All dimensions that were met.
        producers (set[Site]): Sites that emit channels: the output side of
            convolutions and linear layers.
        masked (set[Site]): Sites to multiply by the mask, so that a removed
            channel is exactly zero.
        readers (set[Site]): Input sides of layers that read channels which
            are not zero where removed, and must be masked there.
        terms (list[FlopsTerm]): Multiply-adds, call by call.
        norms (dict[str, str]): Layer to the affine norm right behind it.
        compact (dict[str, Compact]): Modules that run on the living channels
            alone while others are masked.
        unknown (dict[str, int]): Operators without a rule, with the number
            of labelled tensors that they read.
        calls (list[str]): Names of the modules, in the order in which they
            began to run.
    """

    graph: ChannelGraph = field(default_factory=ChannelGraph)
    sites: list[Site] = field(default_factory=list)
    producers: set[Site] = field(default_factory=set)
    masked: set[Site] = field(default_factory=set)
    readers: set[Site] = field(default_factory=set)
    terms: list[FlopsTerm] = field(default_factory=list)
    norms: dict[str, str] = field(default_factory=dict)
    compact: dict[str, Compact] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def nodes_of(self, name: str, dim: int, size: int) -> Tensor:
        """Returns the nodes of one dimension; -1 where it has none.

        Args:
            name (str): Qualified name of the tensor.
            dim (int): The dimension.
            size (int): Its size.
        """
        for site in self.sites:
            if site.name == name and site.dim == dim:
                return torch.arange(site.start, site.start + site.size)
        return torch.full((size,), -1)
