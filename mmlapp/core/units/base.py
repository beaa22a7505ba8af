# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The interface of a unit: what is removed, and how it vanishes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..bypass.branch import Branch, Ends
from ..choices import Choices
from ..cost.base import StoredTensor
from ..errors import PruningError
from ..gathering import Gathering
from ..groups import ChannelGroup, Groups
from ..heirs import Heirs
from ..mask.gate import GateSource
from ..mask.masked import AppliedMask
from ..numbers import check_flag
from ..plan.kept import Kept
from ..plan.layout import Layout
from ..score.group_scores import Layer
from ..sole_paths import sole_paths
from ..trace import LayerCall, Trace

if TYPE_CHECKING:
    from ..analysis.result import Analysis
    from ..analysis.ways import Way


@dataclass(frozen=True)
class Request:
    """What a unit is given to find its parts: a network and its trace.

    Args:
        model (nn.Module): The network, not changed.
        forward (Callable): Runs it on an example.
        record (Trace): Its trace.
        scope (Sequence[str]): Patterns of module names that may be pruned.
        ignore (Sequence[str]): Patterns to leave alone.
        bypass (Mapping, optional): Type and settings of the branch of every
            pruned layer. Defaults to None: none.
        also (Sequence[Way]): Further ways in which the network runs, which
            the trial tries too. Defaults to none.
        corner (bool): False if its images are large and it does not run on a
            corner of them. Defaults to True.
    """

    model: nn.Module
    forward: Callable[[], Any]
    record: Trace
    scope: Sequence[str]
    ignore: Sequence[str]
    bypass: Mapping[str, Any] | None = None
    also: Sequence[Way] = ()
    corner: bool = True

    @cached_property
    def gathering(self) -> Gathering:
        """Gathers the channel groups of the trace, as it is at any time."""
        return Gathering(self.record, self.scope, self.ignore)


# Narrows on trial what a function gathers, see :meth:`Unit.find`.
Verify = Callable[[Callable[[], Groups]], Groups]


@dataclass(frozen=True)
class Found:
    """What can be removed.

    Args:
        groups (Groups): Prunable and frozen groups.
        branches (dict[str, Branch]): Branch of each layer that gets one.
        without (dict[str, str]): Layers that get none, and why.
        reshaped (Sequence[str]): Layers that get another form when they are
            narrowed, which what copies them would not. Defaults to none.
    """

    groups: Groups
    branches: dict[str, Branch] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)
    reshaped: Sequence[str] = ()


class Unit(ABC):
    """A kind of part that is removed: it groups, counts, masks, narrows.

    In the order in which its methods are called: :meth:`find` gathers parts
    into groups; :meth:`calls`, :meth:`branch_calls`, :meth:`idle_calls` and
    :meth:`tensors` say what costs are counted from; :meth:`scored_layers` and
    :meth:`reading_layers` where scores come from; :meth:`add_masks` masks what
    is condemned; :meth:`layout` says what a plan cuts; and
    :meth:`check_layer`, :meth:`numbers` and :meth:`narrow_layer` act on single
    layers when a network is narrowed. Most units derive from
    :class:`~mmlapp.core.units.Channels` and replace some of them.

    Attributes:
        floor (int): Fewest parts that a group keeps. Defaults to 1.
        keeps_streams (bool): Whether the widths of residual streams stay in
            any case. Defaults to False.
    """

    floor = 1
    keeps_streams = False

    @abstractmethod
    def find(self, request: Request, verify: Verify) -> Found:
        """Gathers what can be removed into groups, and builds branches.

        Args:
            request (Request): The network and what may be pruned.
            verify (Callable): Takes a function that gathers groups. Narrows
                the network on trial, compares it with the masked one, and
                freezes channels without which it does not run or does not
                agree; then gathers again, until both agree. Returns the last
                groups.

        Returns:
            Found: Groups whose nodes are numbered as the trace numbers
            them. A unit that removes something else than channels makes
            nodes of its own with ``request.record.graph.new``.
        """

    def floor_of(self, group: ChannelGroup) -> int:
        """Returns how many parts of a group must stay.

        Args:
            group (ChannelGroup): One of its prunable groups.
        """
        return max(self.floor, group.floor)

    def sole_paths(self, analysis: Analysis) -> set[str]:
        """Returns the names of groups that information cannot go around.

        Args:
            analysis (Analysis): What was found.
        """
        return sole_paths(analysis.trace, analysis.groups)

    def scored_layers(
        self, model: nn.Module, analysis: Analysis, group: ChannelGroup
    ) -> list[Layer]:
        """Returns where the scores of a group come from.

        Args:
            model (nn.Module): The network without branches.
            analysis (Analysis): What was found.
            group (ChannelGroup): One of its prunable groups.
        """
        record = analysis.trace
        lost = {member.site.name for member in group.members}
        layers = []
        for member in group.producers(record.producers):
            name = member.site.module
            # 'backbone.bn1.weight' -> 'backbone.bn1' and 'weight'; '' where no
            # norm follows.
            norm, _, scale = record.norms.get(name, '').rpartition('.')
            owner, _, shift = record.shifts.get(name, '').rpartition('.')
            layers.append(
                Layer(
                    name,
                    model.get_submodule(name),
                    (member.site.dim,),
                    member.channels,
                    model.get_submodule(norm) if scale else None,
                    member.site.name.rpartition('.')[2],
                    scale,
                    shift if owner == norm else '',
                    record.norms.get(name) in lost,
                )
            )
        return layers

    def reading_layers(
        self, model: nn.Module, analysis: Analysis, group: ChannelGroup
    ) -> list[Layer]:
        """Returns which weights read the channels of a group.

        Args:
            model (nn.Module): The network without branches.
            analysis (Analysis): What was found.
            group (ChannelGroup): One of its prunable groups.
        """
        emit, layers = analysis.trace.producers, []
        for member in group.members:
            site, weight = member.site, member.site.name.rpartition('.')[2]
            module = model.get_submodule(site.module)
            stored = {**module._buffers, **module._parameters}.get(weight)
            # Norms, biases and statistics have one number per channel.
            if site in emit or stored is None or stored.dim() < 2:
                continue
            layers.append(
                Layer(
                    site.module,
                    module,
                    (site.dim,),
                    member.channels,
                    weight=weight,
                )
            )
        return layers

    def calls(self, analysis: Analysis) -> list[LayerCall]:
        """Returns the network's own calls, which costs are counted from.

        Args:
            analysis (Analysis): What was found.
        """
        return analysis.trace.calls

    def branch_calls(self, analysis: Analysis) -> list[LayerCall]:
        """Returns the calls of the branches.

        Args:
            analysis (Analysis): What was found.
        """
        calls = []
        for name, branch in analysis.branches.items():
            ends = self.branch_ends(analysis, name)
            # A layer that runs several times has its branch run as often.
            for call in analysis.trace.calls:
                if call.name == name:
                    calls += branch.calls(f'{name}.bypass', call, ends)
        return calls

    def idle_calls(
        self, model: nn.Module, analysis: Analysis
    ) -> list[LayerCall]:
        """Returns calls of branches that the example does not run.

        They belong to layers such as those of a head that runs in training
        alone. Their inputs are empty, so that what they store counts and
        their multiply-adds do not.

        Args:
            model (nn.Module): The network without branches.
            analysis (Analysis): What was found.
        """
        ran = {call.name for call in analysis.trace.calls}
        calls = []
        for name, branch in analysis.branches.items():
            if name in ran:
                continue
            layer: Any = model.get_submodule(name)
            # [0, channels, 0, 0]: no image, no pixel.
            space = (0,) * (layer.weight.dim() - 2)
            call = LayerCall(
                name,
                'convolution',
                {},
                (0, layer.in_channels, *space),
                tuple(layer.weight.shape),
                (0, layer.out_channels, *space),
            )
            ends = self.branch_ends(analysis, name)
            calls += branch.calls(f'{name}.bypass', call, ends)
        return calls

    def tensors(
        self, model: nn.Module, analysis: Analysis
    ) -> list[StoredTensor]:
        """Returns all parameters and which of their dimensions shrink.

        Args:
            model (nn.Module): The network without branches.
            analysis (Analysis): What was found.
        """
        # Name -> dimension -> node at each index, [size].
        dims: dict[str, dict[int, Tensor]] = {}
        for site in analysis.trace.sites:
            if not site.attribute:
                nodes = torch.arange(site.start, site.start + site.size)
                dims.setdefault(site.name, {})[site.dim] = nodes
        return [
            StoredTensor(name, tuple(p.shape), dims.get(name, {}))
            for name, p in model.named_parameters()
        ]

    @abstractmethod
    def branch_ends(self, analysis: Analysis, name: str) -> Ends | None:
        """Returns the nodes at both ends of a layer's branch.

        Args:
            analysis (Analysis): What was found.
            name (str): The layer.

        Returns:
            tuple[Tensor, Tensor] or None: Input and output nodes; None if
            the branch keeps its full width.
        """

    @abstractmethod
    def add_masks(
        self,
        model: nn.Module,
        source: GateSource,
        analysis: Analysis,
    ) -> list[AppliedMask]:
        """Lets parameters read the gate, so that a removed part is zero.

        Args:
            model (nn.Module): The network with its branches, changed in
                place.
            source (GateSource): Holds the gate.
            analysis (Analysis): What was found.
        """

    @abstractmethod
    def layout(self, model: nn.Module, analysis: Analysis) -> Layout:
        """Returns where every part lives.

        Args:
            model (nn.Module): The network.
            analysis (Analysis): What was found.
        """

    def check_layer(
        self,
        layer: nn.Module,
        details: Mapping[str, Kept],
        slices: Mapping[str, Mapping[int, Kept]],
    ) -> None:
        """Refuses details of a plan that do not fit a layer.

        Args:
            layer (nn.Module): The dense layer.
            details (Mapping[str, Kept]): What :meth:`layout` noted for it.
            slices (Mapping): What the plan keeps of each dimension of its
                tensors, by their names in it.

        Raises:
            PruningError: If they do not fit.
        """
        raise PruningError(
            f'{type(self).__name__} has no details such as the plan has: '
            f'{", ".join(details)}'
        )

    def numbers(self, details: Mapping[str, Kept]) -> dict[str, int]:
        """Returns numbers of a narrowed layer that its tensors do not tell.

        They are set before blocks around it read them. Defaults to none.

        Args:
            details (Mapping[str, Kept]): What :meth:`layout` noted for it.

        Returns:
            dict[str, int]: By the names of its attributes.
        """
        return {}

    def narrow_layer(
        self, layer: nn.Module, details: Mapping[str, Kept]
    ) -> Heirs:
        """Finishes a layer whose tensors were sliced. Does nothing by default.

        Args:
            layer (nn.Module): The layer, changed in place.
            details (Mapping[str, Kept]): What :meth:`layout` noted for it.

        Returns:
            Heirs: What took the place of parameters that this replaced.
        """
        return {}


UNITS: Choices[Callable[..., Unit]] = Choices('unit', Unit)


def register_unit(name: str) -> Callable[[type[Unit]], type[Unit]]:
    """Adds a unit under a name that configs and plans can use.

    Args:
        name (str): The name.

    Examples:
        >>> from mmlapp.core.units import Channels
        >>> @register_unit('whole_channels')
        ... class OwnChannels(Channels):
        ...     pass
    """

    def add(kind: type[Unit]) -> type[Unit]:
        UNITS.register(name)(kind)
        return kind

    return add


def check_keep_streams(value: Any, unit: Unit) -> None:
    """Refuses to leave streams whole where they stay whole in any case.

    Args:
        value (Any): What a user gave as ``keep_streams``.
        unit (Unit): What is removed.

    Raises:
        PruningError: If it is no truth value, or without effect.
    """
    if check_flag('keep_streams', value) and unit.keeps_streams:
        raise PruningError(
            f'keep_streams=True: unit={unit_name(unit)!r} leaves the widths '
            'of residual streams as they are. Leave keep_streams out, and '
            'name layers that are to stay whole in ignore'
        )


def unit_name(unit: Unit) -> str:
    """Returns the name that a plan notes for a unit.

    Args:
        unit (Unit): Made from the table of units.

    Raises:
        PruningError: If its class is not registered.
    """
    for name in UNITS:
        if UNITS[name] is type(unit):
            return name
    raise PruningError(
        f'{type(unit).__name__} is not registered: decorate it with '
        '@register_unit'
    )
