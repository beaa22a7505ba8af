# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What one layer of a model costs, and whether it is prunable."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mmlapp.core import Analysis
from mmlapp.core.cost.flops import multiply_adds
from mmlapp.core.gathering import SINGLE

OPERATOR = 'an operator without parameters'
FOLLOWS = 'with what it reads'
PARTS = 'stripes alone'


@dataclass(frozen=True)
class LayerReport:
    """One layer, or one operator without parameters.

    Args:
        name (str): Qualified name, or the name of the operator.
        kind (str): Class of the module.
        inputs (int, optional): Input channels.
        outputs (int, optional): Output channels.
        flops (int): Multiply-adds of all its calls.
        share (float): Its part of the whole.
        groups (tuple[int, ...]): Numbers of the prunable groups that its
            output channels belong to; of an operator those that it reads.
        prunable (int): How many of its output channels are prunable.
        reason (str, optional): Why the others are not.
    """

    name: str
    kind: str
    inputs: int | None
    outputs: int | None
    flops: int
    share: float
    groups: tuple[int, ...]
    prunable: int
    reason: str | None


def report_layers(model: nn.Module, found: Analysis) -> list[LayerReport]:
    """Returns what there is to say of every layer, in order of the forward.

    Args:
        model (nn.Module): The model that was analysed.
        found (Analysis): What was found.
    """
    # A layer that runs several times is one row.
    flops: dict[str, int] = {}
    for call in found.trace.calls:
        flops[call.name] = flops.get(call.name, 0) + multiply_adds(call)
    modules = dict(model.named_modules())
    return [
        _layer(name, modules.get(name), value, found)
        for name, value in flops.items()
    ]


def _layer(
    name: str, module: nn.Module | None, flops: int, found: Analysis
) -> LayerReport:
    # An operator without parameters is named by itself and is no module.
    groups, prunable, reasons = _emitted(name, found)
    if module is None:
        groups = _read(name, found)
        reasons = [FOLLOWS if groups else OPERATOR]
    elif not groups and not reasons:
        reasons = [SINGLE]
    return LayerReport(
        name=name,
        kind='' if module is None else type(module).__name__,
        inputs=_width(module, 'in'),
        outputs=_width(module, 'out'),
        flops=flops,
        share=flops / max(found.flops, 1),
        groups=tuple(groups),
        prunable=prunable,
        # Each reason once, in the order of the groups.
        reason='; '.join(dict.fromkeys(reasons)) or None,
    )


def _emitted(name: str, found: Analysis) -> tuple[list[int], int, list[str]]:
    """Groups that a layer emits, channels that may go, and why others not."""
    groups: list[int] = []
    reasons: list[str] = []
    # Prunable groups are numbered from 1 on, frozen ones have no number.
    prunable = number = 0
    for group in found.groups.items:
        number += group.frozen is None
        if group.frozen is None and not group.members and group.name == name:
            # Parts of its own, which no dimension of a tensor counts.
            groups.append(number)
            reasons.insert(0, PARTS)
        # A layer may emit channels of several groups, frozen ones among them.
        for member in group.producers(found.trace.producers):
            if member.site.module != name:
                continue
            if group.frozen is None:
                groups.append(number)
                # member.channels: [outputs of the layer], -1 where an output
                # is of another group.
                prunable += int((member.channels >= 0).sum())
            else:
                # Its own name says nothing new.
                reasons.append(group.frozen.removesuffix(f': {name}'))
    return groups, prunable, reasons


def _read(name: str, found: Analysis) -> list[int]:
    """Groups that the calls of an operator shrink with, as attention does."""
    owner, groups = found.groups.node_group, set()
    for call in found.trace.calls:
        if call.name == name:
            for ids in call.dims.values():
                groups.update(owner[ids[ids >= 0]].tolist())
    # -1: frozen, or of no group.
    return [number + 1 for number in sorted(groups - {-1})]


def _width(module: nn.Module | None, side: str) -> int | None:
    # Convolutions say channels, linear layers features; tables have one side.
    table = ['embedding_dim'] if side == 'out' else []
    for name in (f'{side}_channels', f'{side}_features', *table):
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    return None
