# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Puts a pruner, masks and bypasses on a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from .methods import METHODS, Method
from .methods.budget import check_divisor
from .pruner import Pruner
from .score import Score, Scorer
from .score.group_scores import GroupInfo, Layer
from .trace import FlopsTerm


def attach(
    model: nn.Module,
    example: Tensor | tuple[Any, ...] | Callable[[], Any],
    *,
    scope: str | Sequence[str] = '*',
    ignore: str | Sequence[str] = (),
    bypass: Bypass | None = None,
    method: str | Mapping[str, Any] | Method = 'lapp',
    score: str | Mapping[str, Any] | Score = 'l2',
    normalisation: str = 'rank',
    divisor: int = 1,
    analysis: Analysis | None = None,
) -> Pruner:
    """Makes a network prunable in place.

    Its class and its state-dict keys stay; a child ``pruner`` is added.

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
        method (str, Mapping or Method): Who decides which channels live:
            ``lapp``, ``uniform``, ``random`` or a registered name, or a
            dictionary of it as ``type`` and its settings. Defaults to
            ``lapp``.
        score (str, Mapping or Score): Importance score, likewise. Defaults
            to ``l2``.
        normalisation (str): How scores of different layers become
            comparable: ``rank``, ``mean`` or ``std``. Defaults to ``rank``.
        divisor (int): What the number of kept channels of a group is a
            multiple of, unless all are kept: 8 or 16 where the hardware
            wants it. Defaults to 1.
        analysis (Analysis, optional): What :func:`analyse` found with the
            same scope and bypass, to spare the forwards. Defaults to None.

    Returns:
        Pruner: The added child.

    Raises:
        PruningError: For an unknown name, a divisor below 1, and what
            :func:`analyse` refuses.

    Examples:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> attach(model, torch.rand(1, 3, 9, 9))
        Pruner(
          groups=1, channels=8
          (costs): ModuleDict(
            (flops): FlopsTable()
          )
          (method): LAPP(
            (update): Balance()
          )
        )
    """
    _refuse_second(model)
    check_divisor(divisor)
    decides = METHODS.build(method)
    scorer = Scorer(score, normalisation)
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
    pruner = Pruner(
        infos,
        layout_of(
            model,
            analysis.trace,
            analysis.groups,
            bypass,
            analysis.bypasses,
        ),
        {'flops': table},
        decides,
        scorer,
        divisor,
    )
    for name, branch in analysis.bypasses.items():
        add_bypass(model.get_submodule(name), branch)
    filled = analysis.bypasses if bypass.placement == 'fill' else None
    pruner.places.extend(
        place_masks(model, pruner, analysis.trace, analysis.groups, filled)
    )
    pruner.to(next(model.parameters()).device)
    model.add_module('pruner', pruner)
    pruner.handles.append(model.register_forward_pre_hook(_activate))
    return pruner


def _refuse_second(model: nn.Module) -> None:
    if hasattr(model, 'pruner'):
        raise PruningError(
            'the model already has a child named pruner: attach it only once'
        )
    for name, module in model.named_modules():
        if isinstance(module, (Compacted, Masked, Pruner)):
            raise PruningError(
                f'{name} of the model is already prunable: attach either '
                'the part or the whole'
            )


def _activate(module: nn.Module, args: object) -> None:
    """Masks apply from the first forward on; before it, weights are set."""
    pruner: Any = module.pruner
    if not pruner.complete:
        restore_masks(module, pruner.places)
        pruner.complete = True
    pruner.active = True


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
    return FlopsTable(terms, analysis.groups, analysis.flops, pairs)


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
