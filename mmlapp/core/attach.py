# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Puts thresholds, masks and bypasses on a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .analysis.analyse import Analysis, analyse
from .analysis.refusals import example_of
from .bypass.branches import Bypass, add_bypass
from .bypass.narrowed import pair_channels
from .cost.flops import FlopsTable, PairTerm
from .errors import PruningError
from .mask.gate import Masked, restore_masks
from .mask.living import Compacted
from .mask.placing import layout_of, lookup, nodes_of, place_masks
from .methods.budget import check_divisor
from .methods.lapp.controller import Controller
from .methods.lapp.surrogates import SURROGATES
from .pruner import LAPP
from .score.group_scores import GroupInfo, Layer
from .trace import FlopsTerm


def attach(
    model: nn.Module,
    example: Tensor | tuple[Any, ...] | Callable[[], Any],
    *,
    scope: str | Sequence[str] = '*',
    ignore: str | Sequence[str] = (),
    bypass: Bypass | None = None,
    score: str = 'l2',
    normalisation: str = 'rank',
    surrogate: str = 'sigmoid',
    width: float = 0.1,
    controller: Controller | None = None,
    divisor: int = 1,
    analysis: Analysis | None = None,
) -> LAPP:
    """Makes a network prunable in place.

    Its class and its state-dict keys stay; a child ``lapp`` is added.

    Args:
        model (nn.Module): The network, not yet wrapped for distributed
            training.
        example (Tensor, tuple or Callable): An input, a tuple of all
            positional arguments, or a function without arguments that runs
            the network on whatever else it reads.
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
        divisor (int): What the number of kept channels of a group is a
            multiple of, unless all are kept: 8 or 16 where the hardware
            wants it. Defaults to 1.
        analysis (Analysis, optional): What :func:`analyse` found with the
            same scope and bypass, to spare the forwards. Defaults to None.

    Returns:
        LAPP: The added child.

    Raises:
        PruningError: For an unknown name, a divisor below 1, and what
            :func:`analyse` refuses.

    Examples:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> attach(model, torch.rand(1, 3, 9, 9))
        LAPP(
          groups=1, channels=8
          (flops): FlopsTable()
        )
    """
    _refuse_second(model)
    check_divisor(divisor)
    smooth = SURROGATES[surrogate](width)
    if analysis is None:
        analysis = analyse(
            model, example_of(model, example), scope, ignore, bypass
        )
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
        layout_of(
            model,
            analysis.trace,
            analysis.groups,
            bypass,
            analysis.bypasses,
        ),
        table,
        analysis.flops,
        score,
        normalisation,
        smooth,
        controller or Controller(),
        divisor,
    )
    for name, branch in analysis.bypasses.items():
        add_bypass(model.get_submodule(name), branch)
    filled = analysis.bypasses if bypass.placement == 'fill' else None
    lapp.places.extend(
        place_masks(model, lapp, analysis.trace, analysis.groups, filled)
    )
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
        if isinstance(module, (Compacted, LAPP, Masked)):
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
            nodes_of(analysis.trace, f'{name}.weight', dim, size)
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
