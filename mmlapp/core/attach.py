# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Puts a pruner, masks and bypasses on a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .analysis.analyse import analyse
from .analysis.refusals import check_network
from .analysis.result import Analysis
from .analysis.ways import Way
from .bypass.beside import add_bypass
from .bypass.branch import start_branches
from .cost import COSTS, Cost, CostContext
from .default_device import on_cpu
from .errors import PruningError, PruningWarning
from .hiding import (
    goes_over_children,
    hide_in_forward,
    pruner_in_forward,
    show_again,
)
from .mask.living import RunsOnLiving
from .mask.masked import (
    Masked,
    all_in_place,
    masked_parameters,
    places_of,
    restore_masks,
)
from .methods import METHODS, Method
from .methods.budget import check_divisor
from .methods.min_keep import LeastShare, least_share, warn_of_no_sole_path
from .misuse import check_same_layers
from .narrowing.stale import watch
from .plan.kinds import layer_kinds
from .plan.layout import Layout, tensor_shapes
from .pruner import Pruner
from .pruner.protection import check_protect
from .pruner.shrinking import Shrink, shrinking
from .score import Score, Scorer
from .score.group_scores import GroupInfo
from .units import Unit

COST_NAMES = 'flops', 'parameters'


# What is made in inference mode cannot be trained.
@torch.inference_mode(False)
def attach(
    model: nn.Module,
    example: Tensor | tuple[Any, ...] | Callable[[], Any],
    *,
    scope: str | Sequence[str] = '*',
    ignore: str | Sequence[str] = (),
    keep_streams: bool = False,
    unit: str | Mapping[str, Any] | Unit = 'channels',
    bypass: str | Mapping[str, Any] | None = None,
    method: str | Mapping[str, Any] | Method = 'lapp',
    score: str | Mapping[str, Any] | Score = 'l2',
    normalisation: str = 'rank',
    costs: Sequence[str | Mapping[str, Any]] = COST_NAMES,
    divisor: int = 1,
    min_keep: float | str | Mapping[str, Any] | LeastShare | None = None,
    shrink: Shrink | None = None,
    protect: float = 0,
    also: Sequence[Callable[[], Any] | Way] = (),
    unused: str | Sequence[str] = (),
    analysis: Analysis | None = None,
) -> Pruner:
    """Makes a network prunable in place.

    Its class and its state-dict keys stay; a child ``pruner`` is added.

    Args:
        model (nn.Module): The network, not yet wrapped for distributed
            training.
        example (Tensor, tuple or Callable): An input, a tuple of all
            positional arguments, or a function without arguments that runs
            the network on whatever else it reads. Tensors that hold one value
            alone are given random numbers, if the network takes them.
        scope (str or Sequence[str]): Patterns of module names that may be
            pruned. Defaults to all.
        ignore (str or Sequence[str]): Patterns to leave alone. Defaults to
            none.
        keep_streams (bool): Whether residual streams stay whole: channels
            to which several layers add their outputs. Defaults to False.
        unit (str, Mapping or Unit): What is removed: ``channels``, which
            vanish from every layer that shares them; ``filters`` of
            single convolutions, whose outputs a bypass fills; or
            ``stripes``, positions of kernels where widths must match and
            channels elsewhere. Defaults to ``channels``.
        bypass (str or Mapping, optional): Branch beside every pruned layer:
            ``depthwise``, ``pointwise``, ``grouped``, those that are merged
            (``asymmetric``, ``repvgg``, ``twin``) or a registered name,
            or a dictionary of it as ``type`` and its settings. Defaults to
            none.
        method (str, Mapping or Method): Who decides which channels live:
            ``lapp``, ``ranking``, ``one_cycle``, ``psap``, ``admm``,
            ``soft``, ``adaptive_l1``, ``uniform``, ``random`` or a
            registered name, or a dictionary of it as ``type`` and its
            settings. Defaults to
            ``lapp``.
        score (str, Mapping or Score): Importance score, likewise. Defaults
            to ``l2``.
        normalisation (str): How scores of different layers become
            comparable: ``rank``, ``mean``, ``std`` or ``none``. Defaults to
            ``rank``.
        costs (Sequence[str or Mapping]): What can be a target: names of
            registered costs, or dictionaries of one as ``type`` and its
            settings. Defaults to ``flops`` and ``parameters``.
        divisor (int): What the number of kept channels of a group is a
            multiple of, unless all are kept: 8 or 16 where the hardware
            wants it. Heads of attention, and groups of a norm that go as a
            whole, count with all their channels.
            Defaults to 1.
        min_keep (float, str, Mapping or Callable, optional): Least share of
            every group that is kept, in [0, 1], rounded up to whole channels;
            ``near_uniform``, ``sole_path``, ``by_width`` or another
            registered name, with settings, or a function from the width of a
            group to its share. 0 is as few as the network runs with. Defaults
            to None: as the method wants it.
        shrink (int, str, Mapping or Shrinking, optional): How the gate of a
            channel falls from one to zero once the method has condemned it:
            in that many equal steps of the optimizer; ``growing``, by a decay
            that grows with the phase, or another registered name, with
            settings. Defaults to None: as the method wants it, which is at
            once for all but ``one_cycle``.
        protect (float): Share of every group, in [0, 1), that no method
            removes as long as the budget allows: the channels with the
            largest gradient of the task loss, which come back if they were
            removed. Defaults to 0.
        also (Sequence[Callable]): Functions without arguments that run the
            network in further ways, such as for its loss or for predictions,
            see :func:`analyse`. Defaults to none.
        unused (str or Sequence[str]): Patterns of modules that no forward
            reaches and that read nothing that is pruned. Defaults to none.
        analysis (Analysis, optional): What :func:`analyse` found, to spare
            the forwards; it says what was given to it then. Defaults to
            None.

    Returns:
        Pruner: The added child.

    Raises:
        PruningError: For an unknown name, a number outside its range, and
            what :func:`analyse` refuses.

    Examples:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> attach(model, torch.rand(1, 3, 9, 9))
        Pruner(
          groups=1, channels=8
          (counted): ModuleList(
            (0): Flops()
            (1): Parameters()
          )
          (method): LAPP(
            (update): Balance()
          )
        )
    """
    with on_cpu():
        check_network(model)
        _refuse_second(model)
        check_divisor(divisor)
        decides = METHODS.build(method)
        least = least_share(decides.min_keep if min_keep is None else min_keep)
        if shrink is not None:
            shrinking(shrink)  # checks it
        check_protect(protect)
        scorer = Scorer(score, normalisation)
        _check_analysis(analysis)
        if analysis is None:
            analysis = analyse(
                model,
                example,
                scope=scope,
                ignore=ignore,
                bypass=bypass,
                unit=unit,
                also=also,
                unused=unused,
                keep_streams=keep_streams,
            )
        _check_prunable(analysis, scope)
        # All read before the branches are added: own layers and parameters.
        counted = build_costs(model, analysis, costs)
        _warn_of_divisor(counted, divisor)
        groups = _infos(model, analysis)
        scorer.check_groups(groups)
        # A method's own floor is no wish that could go unheard.
        if min_keep is not None and not any(g.sole_path for g in groups):
            warn_of_no_sole_path(least)
        pruner = Pruner(
            groups,
            _layout(model, analysis),
            counted,
            decides,
            scorer,
            divisor=divisor,
            least=least,
            shrink=shrink,
            protect=protect,
        )
        pruner.frozen = analysis.groups.frozen
        _put_on(model, pruner, analysis)
        return pruner


def _check_analysis(analysis: Any) -> None:
    if not isinstance(analysis, (Analysis, type(None))):
        raise PruningError(
            f'analysis={type(analysis).__name__}: expected what '
            'analyse(model, example) returns, or None'
        )


def _check_prunable(analysis: Analysis, scope: str | Sequence[str]) -> None:
    if not analysis.groups.prunable:
        reasons = sorted({str(g.frozen) for g in analysis.groups.items})
        raise PruningError(
            f'no channel can be pruned in scope={scope!r}; reasons: '
            + '; '.join(reasons)
            + '. Give another scope, or change what the reasons name: '
            'analyse(model, example).groups.items says of which layer each is'
        )


def _put_on(model: nn.Module, pruner: Pruner, analysis: Analysis) -> None:
    """Adds branches, masks, the pruner and its hooks to a network."""
    # Branches first: masks are placed on them too.
    for name, branch in analysis.branches.items():
        add_bypass(model.get_submodule(name), branch)
    pruner.applied_masks.extend(
        analysis.unit.add_masks(model, pruner, analysis)
    )
    pruner.masked = masked_parameters(model)
    pruner.to(next(model.parameters()).device)
    model.add_module('pruner', pruner)
    for handle in (
        model.register_forward_pre_hook(_activate),
        # Public from torch 2.5 on.
        model._register_load_state_dict_pre_hook(_check_loaded, True),
    ):
        pruner.hook_ids.append(handle.id)
    if goes_over_children(model):
        pruner.hook_ids += hide_in_forward(model)
    watch(model)


def _refuse_second(model: nn.Module) -> None:
    if hasattr(model, 'pruner'):
        raise PruningError(
            'the model already has a child named pruner: attach it only once'
        )
    for name, module in model.named_modules():
        if isinstance(module, (RunsOnLiving, Masked, Pruner)):
            raise PruningError(
                f'{name or "the layer"} of the model is already prunable: '
                'attach either the part or the whole'
            )


def _check_loaded(
    module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any
) -> None:
    """Refuses a bad state before any weight changes: the pruner is last."""
    show_again(module)
    pruner = module._modules.get('pruner')
    if isinstance(pruner, Pruner):
        pruner.read(state_dict, f'{prefix}pruner.')
        pruner.loading = True


def _activate(module: nn.Module, args: object) -> None:
    """Masks apply from the first forward on; before it, weights are set."""
    pruner: Any = pruner_in_forward(module)
    if pruner is None:
        raise PruningError(
            'the child pruner was deleted, and masks that read it are still '
            'there. Put it back, model.pruner = pruner; narrow takes both off'
        )
    if not pruner.complete:
        _restore(module, pruner)
        start_branches(module)
        pruner.complete = True
    pruner.active = True
    if not torch.compiler.is_compiling():
        if not all_in_place(pruner.places):
            _restore(module, pruner)
        pruner.before_forward(module.training)
    pruner.relax(module.training)


def _restore(module: nn.Module, pruner: Pruner) -> None:
    masks = pruner.applied_masks
    restore_masks(module, masks)
    check_same_layers(module, pruner.groups)
    scored = [(a.name, a.weight) for g in pruner.groups for a in g.layers]
    read = [(a.module, a.parameter) for a in masks]
    pruner.places = places_of(module, [*read, *scored])
    pruner.masked = masked_parameters(module)


def build_costs(
    model: nn.Module,
    analysis: Analysis,
    choices: Sequence[str | Mapping[str, Any]] = COST_NAMES,
) -> dict[str, Cost]:
    """Makes the costs of a network as functions of the gate.

    Args:
        model (nn.Module): The network as it was analysed.
        analysis (Analysis): What :func:`analyse` found.
        choices (Sequence): Names, or dictionaries with ``type`` and
            settings. Defaults to FLOPs and parameters.
    """
    context = cost_context(model, analysis)
    named = isinstance(choices, str) or not isinstance(choices, Sequence)
    if named or not choices:
        raise PruningError(
            f'costs={choices!r}: expected a list of one or more costs, such '
            f'as {list(COST_NAMES)}'
        )
    names = [COSTS.spelled_out(choice)['type'] for choice in choices]
    if len(set(names)) < len(names):
        raise PruningError(
            f'costs={list(choices)!r}: a target names one of them. Leave each '
            'there once'
        )
    built = [COSTS.build(choice, context) for choice in choices]
    return dict(zip(names, built, strict=True))


def cost_context(model: nn.Module, analysis: Analysis) -> CostContext:
    """Returns what costs are counted from.

    Args:
        model (nn.Module): The network as it was analysed.
        analysis (Analysis): What :func:`analyse` found.
    """
    unit = analysis.unit
    return CostContext(
        calls=unit.calls(analysis),
        branch_calls=unit.branch_calls(analysis),
        tensors=unit.tensors(model, analysis),
        groups=analysis.groups,
        idle_calls=unit.idle_calls(model, analysis),
    )


def _warn_of_divisor(costs: Mapping[str, Cost], divisor: int) -> None:
    """Says which costs are guesses at the widths that there may be."""
    for name, cost in costs.items():
        if divisor % cost.divisor:
            warnings.warn(
                f'divisor={divisor}: cost {name!r} is known at multiples of '
                f'{cost.divisor}, and guessed between them. Set '
                f'divisor={cost.divisor}',
                PruningWarning,
                stacklevel=4,
            )


def _layout(model: nn.Module, analysis: Analysis) -> Layout:
    """Where every part lives, and what the dense network is known by."""
    return replace(
        analysis.unit.layout(model, analysis),
        shapes=tensor_shapes(model),
        heads=analysis.groups.heads,
        kinds=layer_kinds(model),
    )


def _infos(model: nn.Module, analysis: Analysis) -> list[GroupInfo]:
    """What the pruner needs to know of every prunable group, in order."""
    unit = analysis.unit
    sole = unit.sole_paths(analysis)
    return [
        GroupInfo(
            name=group.name,
            size=group.size,
            layers=unit.scored_layers(model, analysis, group),
            floor=unit.floor_of(group),
            readers=unit.reading_layers(model, analysis, group),
            block=group.block,
            sole_path=group.name in sole,
        )
        for group in analysis.groups.prunable
    ]
