# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Puts thresholds, masks and bypasses on a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .analyse import Analysis, analyse, owners
from .bypass import Bypass, add_bypass
from .controller import Controller
from .errors import PruningError
from .flops import FlopsTable, PairTerm
from .lapp import LAPP
from .layout import Layout
from .masks import (
    Masked,
    MaskPlace,
    ParameterMask,
    add_mask,
    restore_masks,
)
from .partial import pair_channels
from .scoring import GroupInfo, Layer
from .surrogates import SURROGATES
from .trace import FlopsTerm, Site, Trace


def attach(
    model: nn.Module,
    example: Tensor | Callable[[], Any],
    *,
    scope: str | Sequence[str] = '*',
    ignore: str | Sequence[str] = (),
    bypass: Bypass | None = None,
    score: str = 'l2',
    normalisation: str = 'rank',
    surrogate: str = 'sigmoid',
    width: float = 0.1,
    controller: Controller | None = None,
) -> LAPP:
    """Makes a network prunable in place.

    Its class and its state-dict keys stay; a child ``lapp`` is added.

    Args:
        model (nn.Module): The network, not yet wrapped for distributed
            training.
        example (Tensor or Callable): An input, or a function without
            arguments that runs the network on one.
        scope (str or Sequence[str]): Patterns of module names that may be
            pruned. Defaults to all.
        ignore (str or Sequence[str]): Patterns to leave alone. Defaults to
            none.
        bypass (Bypass, optional): Bypass of every pruned convolution.
            Defaults to none.
        score (str): Importance score. Defaults to ``l2``.
        normalisation (str): How scores of different layers become
            comparable. Defaults to ``rank``.
        surrogate (str): Surrogate of the mask's derivative. Defaults to
            ``sigmoid``.
        width (float): Its width in units of the normalised score. Defaults
            to 0.1.
        controller (Controller, optional): Rule of the thresholds' steps.

    Returns:
        LAPP: The added child.

    Raises:
        PruningError: For a wrapped model, an unknown name, or a scope that
            matches nothing.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> attach(model, torch.rand(1, 3, 9, 9))
        LAPP(
          groups=1, channels=8
          (flops): FlopsTable()
        )
    """
    _refuse_second(model)
    forward = (
        example
        if callable(example) and not isinstance(example, Tensor)
        else (lambda: model(example))
    )
    smooth = SURROGATES[surrogate](width)
    analysis = analyse(model, forward, scope, ignore, bypass)
    bypass = bypass or Bypass()
    if not analysis.groups.prunable:
        reasons = sorted({str(g.frozen) for g in analysis.groups.items})
        raise PruningError(
            f'no channel can be pruned in scope={scope!r}; reasons: '
            + '; '.join(reasons)
        )
    table = flops_table(model, analysis, bypass)
    infos = _infos(model, analysis, floor=int(bypass.placement == 'narrow'))
    lapp = LAPP(
        infos,
        _layout(model, analysis, bypass),
        table,
        analysis.flops,
        score,
        normalisation,
        smooth,
        controller or Controller(),
    )
    for name, branch in analysis.bypasses.items():
        add_bypass(model.get_submodule(name), branch)
    _add_masks(model, lapp, analysis)
    lapp.to(next(model.parameters()).device)
    model.add_module('lapp', lapp)
    model.register_forward_pre_hook(_activate)
    return lapp


def _refuse_second(model: nn.Module) -> None:
    if hasattr(model, 'lapp'):
        raise PruningError(
            'the model already has a child named lapp: attach it only once'
        )
    for name, module in model.named_modules():
        if isinstance(module, (LAPP, Masked)):
            raise PruningError(
                f'{name} of the model is already prunable: attach either '
                'the part or the whole'
            )


def _activate(module: nn.Module, args: object) -> None:
    """Masks apply from the first forward on; before it, weights are set."""
    lapp: Any = module.lapp
    if not lapp.complete:
        restore_masks(module, lapp.places)
        lapp.complete = True
    lapp.active = True


def flops_table(
    model: nn.Module, analysis: Analysis, bypass: Bypass
) -> FlopsTable:
    """Makes the multiply-adds of a network with its bypasses.

    Args:
        model (nn.Module): The network as it was analysed.
        analysis (Analysis): What :func:`analyse` found.
        bypass (Bypass): Type and placement that it was analysed for.

    Returns:
        FlopsTable: As a function of the masks.
    """
    terms = list(analysis.trace.terms)
    pairs: list[PairTerm] = []
    channel = analysis.groups.node_channel
    for name, branch in analysis.bypasses.items():
        weight = model.get_parameter(f'{name}.weight')
        calls = sum(t.dense for t in terms if t.name == name)
        positions = calls // weight.numel()
        area = branch.weight[0, 0].numel()
        label = f'{name}.bypass'
        outputs, inputs = (
            _nodes(analysis.trace, f'{name}.weight', dim, size)
            for dim, size in enumerate(weight.shape[:2])
        )
        if bypass.placement == 'fill':
            cost = positions * branch.weight.numel()
            terms.append(FlopsTerm(label, cost, ()))
        elif branch.groups == 1:
            terms.append(FlopsTerm(label, positions * area, (outputs, inputs)))
        else:
            ends = pair_channels(
                branch.groups,
                lookup(channel, inputs),
                lookup(channel, outputs),
            )
            pairs.append(PairTerm(label, positions * area, *ends))
    return FlopsTable(terms, analysis.groups, pairs)


def lookup(channel: Tensor, nodes: Tensor) -> Tensor:
    """Global channel of every node; -1 where there is none."""
    return torch.where(nodes >= 0, channel[nodes.clamp_min(0)], -1)


def _nodes(record: Trace, name: str, dim: int, size: int) -> Tensor:
    for site in record.sites:
        if site.name == name and site.dim == dim:
            return torch.arange(site.start, site.start + site.size)
    return torch.full((size,), -1)


def _layout(model: nn.Module, analysis: Analysis, bypass: Bypass) -> Layout:
    """Global channels of every site; kept ones where no group owns."""
    record, channel = analysis.trace, analysis.groups.node_channel
    sites = []
    for site in record.sites:
        mine = channel[site.start : site.start + site.size]
        if (mine >= 0).any() and _is_stored(model, site):
            sites.append((site, mine))
    ends = {}
    for name in analysis.bypasses:
        shape = model.get_parameter(f'{name}.weight').shape
        outputs, inputs = (
            lookup(channel, _nodes(record, f'{name}.weight', dim, shape[dim]))
            for dim in (0, 1)
        )
        ends[name] = (inputs, outputs)
    return Layout(sites, ends, bypass)


def _is_stored(model: nn.Module, site: Site) -> bool:
    """False for the groups of a convolution that is no module."""
    if not site.attribute:
        return True
    module, _, name = site.name.rpartition('.')
    return hasattr(model.get_submodule(module), name)


def _infos(
    model: nn.Module, analysis: Analysis, floor: int
) -> list[GroupInfo]:
    record = analysis.trace
    infos = []
    for group in analysis.groups.prunable:
        layers = []
        for member in group.producers(record.producers):
            name = member.site.module
            norm = record.norms.get(name)
            layers.append(
                Layer(
                    name,
                    model.get_submodule(name),
                    member.site.dim,
                    member.channels,
                    None if norm is None else model.get_submodule(norm),
                    member.site.name.rpartition('.')[2],
                )
            )
        infos.append(GroupInfo(group.name, group.size, layers, floor))
    return infos


def _add_masks(model: nn.Module, lapp: LAPP, analysis: Analysis) -> None:
    """Masks what emits a channel, and readers of what is not zero."""
    record, channel = analysis.trace, analysis.groups.node_channel
    names = {module: name for name, module in model.named_modules()}

    def add(module: nn.Module, name: str, mask: ParameterMask) -> None:
        add_mask(module, name, mask)
        lapp.places.append(MaskPlace(names[module], name, mask))

    fill = lapp.layout.bypass.placement == 'fill'
    for site in record.sites:
        emits = site in record.masked or (
            fill and (site in record.producers or site.name.endswith('.bias'))
        )
        if site.attribute or not (emits or site in record.readers):
            continue
        mine = channel[site.start : site.start + site.size]
        if (mine < 0).all():
            continue
        mine = torch.where(mine < 0, lapp.total, mine)
        for module, name in owners(model, site.name):
            add(module, name, ParameterMask(lapp, mine, site.dim, emits))
        if not fill and site.module in analysis.bypasses and site.dim == 0:
            branch = model.get_submodule(f'{site.module}.bypass')
            if site.name.endswith('.weight'):
                add(branch, 'weight', ParameterMask(lapp, mine, 0))
