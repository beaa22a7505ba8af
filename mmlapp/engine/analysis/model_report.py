# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What each layer of a config's model costs, and whether it is prunable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmlapp.core import Analysis
from mmlapp.core.attach import build_costs
from mmlapp.core.cost.flops import multiply_adds
from mmlapp.core.cost.multilinear import group_of_channel
from mmlapp.core.methods.budget import (
    check_divisor,
    divisors_of,
    reachable,
    whole_chunks,
)
from mmlapp.core.methods.min_keep import least_channels, least_share

from ..deployment.recipe import dense_config, own_settings
from ..models.arguments import check_settings
from ..models.complexity import COUNTED, counted_flops, operator_flops
from ..models.default_scope import default_scope_of
from ..models.example import Example, example_of, notes_of
from ..models.inputs import InputShape
from .layer_report import LayerReport, report_layers

# Arguments of ``PrunableModel`` that an analysis depends on.
ANALYSED = (
    'input_shape',
    'scope',
    'ignore',
    'keep_streams',
    'unit',
    'bypass',
    'divisor',
    'min_keep',
    'unused',
)


@dataclass(frozen=True)
class ModelReport:
    """All layers and the sums.

    Args:
        settings (dict): What was analysed: ``input_shape``, ``scope``,
            ``ignore``, ``keep_streams``, ``unit``, ``bypass``, ``divisor``,
            ``min_keep``.
        layers (list[LayerReport]): In order of the forward.
        groups (dict[str, int]): Prunable groups and their sizes, in order of
            their numbers, which start at 1.
        floors (dict[str, int]): Fewest channels that each of them keeps.
        heads (dict[str, int]): Width of the heads of attention of those that
            consist of heads instead of channels.
        flops (int): Multiply-adds of the network as it is.
        mmengine_flops (int, optional): The same as MMEngine counts them.
            None if it cannot run the model.
        bypass_flops (int): What the bypasses add.
        prunable_share (float): Share of the layers of which any side is
            prunable.
        minimum (float): Lowest fraction of the FLOPs that pruning reaches.
        uncounted (dict[str, int]): Multiply-adds of operators outside the
            budget, such as norms, as MMEngine counts them.
        foreign (dict[str, int] or str): Calls of operators written outside
            of PyTorch, counted nowhere; or why that is not known.
        unknown (dict[str, int]): Calls of operators that the tracer has no
            rule for; what they read is not prunable.
        reach (dict[str, str]): Modules that the example does not run, and
            how they were reached. Defaults to none.
        notes (list[str]): What of the model was not run, and why. Defaults
            to none.
    """

    settings: dict[str, Any]
    layers: list[LayerReport]
    groups: dict[str, int]
    floors: dict[str, int]
    heads: dict[str, int]
    flops: int
    mmengine_flops: int | None
    bypass_flops: int
    prunable_share: float
    minimum: float
    uncounted: dict[str, int]
    foreign: dict[str, int] | str
    unknown: dict[str, int]
    reach: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, strings, lists and dicts."""
        return asdict(self)


def analyse_config(
    cfg: Config,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> ModelReport:
    """Analyses the model of a config, a prunable one or any other.

    Args:
        cfg (Config): The config; not changed.
        settings (Mapping, optional): ``scope``, ``ignore``,
            ``keep_streams``, ``unit``, ``bypass``, ``divisor``, ``min_keep``
            or ``input_shape`` instead of the config's, or, where it has
            none, of the defaults of ``PrunableModel``.
        progress (Callable): Is told what is being done. Defaults to nothing.

    Returns:
        ModelReport: Layers and sums.

    Raises:
        PruningError: If a name is unknown, the scope matches nothing, or the
            model does not run on ``input_shape``.
    """
    own = own_settings(cfg.model)
    chosen = {key: own[key] for key in ANALYSED}
    chosen.update(settings or {})
    check_settings(chosen)
    progress('building the model')
    with default_scope_of(cfg):
        # Dense even where the config is of a pruned model: attaching would add
        # branches and masks, which an analysis finds by itself.
        model: nn.Module = MODELS.build(dense_config(cfg))
        model.eval()
        progress('tracing the channels')
        return analyse_model(model, chosen, progress)


def analyse_model(
    model: nn.Module,
    settings: Mapping[str, Any],
    progress: Callable[[str], None] = lambda text: None,
) -> ModelReport:
    """Analyses a model that is not pruned, without changing it.

    Args:
        model (nn.Module): A model of OpenMMLab.
        settings (Mapping): ``input_shape``, ``scope``, ``ignore``,
            ``keep_streams``, ``unit``, ``bypass``, ``divisor`` and
            ``min_keep``.
        progress (Callable): Is told what is being done. Defaults to nothing.

    Returns:
        ModelReport: Layers and sums.
    """
    shape = settings['input_shape']
    example = example_of(model, shape, settings.get('unused', ()))
    found = example.analyse(settings)
    divisors = divisors_of(
        check_divisor(settings['divisor']),
        (group.block for group in found.groups.prunable),
    )
    floors = _floors(found, settings.get('min_keep'), divisors)
    # With branches: total is the cost of the layers and of what they add.
    total, lowest = _limits(model, found, list(floors.values()), divisors)
    progress('counting operators')
    counted, uncounted, foreign = _counts(model, shape)
    return ModelReport(
        settings={key: _plain(value) for key, value in settings.items()},
        layers=report_layers(model, found),
        groups={group.name: group.size for group in found.groups.prunable},
        floors=floors,
        heads=found.groups.heads,
        flops=found.flops,
        mmengine_flops=counted,
        # Multiply-adds of branches alone: total has them, found.flops does
        # not. Rounded, for the cost is summed in floats, the trace in whole
        # numbers.
        bypass_flops=round(total) - found.flops,
        prunable_share=_prunable_flops(found) / max(found.flops, 1),
        minimum=lowest / max(found.flops, 1),
        uncounted=uncounted,
        foreign=foreign,
        unknown=dict(found.trace.unknown),
        reach=_reach(found, example),
        notes=notes_of(example.forward, example.modes),
    )


def _reach(found: Analysis, example: Example) -> dict[str, str]:
    """How every module was reached that the example does not run."""
    reach = found.reach
    reached = {
        name: f'through {way}' + _untraced(reach.untraced.get(way))
        for way, names in reach.ways.items()
        for name in names
    }
    copies = {c.name: f'as a copy of {c.original}' for c in reach.copies}
    # Parameters, of which the module is told.
    left = {
        name.rpartition('.')[0]: 'in no way: they fit nothing that is pruned'
        for name in reach.left
    }
    unused = dict.fromkeys(example.unused, 'in no way: said to be unused')
    # The later wins: what the caller said to be unused is told as such,
    # however else it might have been reached.
    return {**reached, **copies, **left, **unused}


def _untraced(reason: str | None) -> str:
    return '' if reason is None else f', on trial alone ({reason})'


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, (list, tuple)) else value


def _floors(
    found: Analysis, min_keep: Any, divisors: Sequence[int]
) -> dict[str, int]:
    """Fewest channels that every group keeps, in whole multiples."""
    # What a method has by itself follows a target, which is not known here.
    share = least_share(0 if min_keep is None else min_keep)
    groups = found.groups.prunable
    sole = found.unit.sole_paths(found)
    asked = [
        least_channels(share, g.size, found.unit.floor_of(g), g.name in sole)
        for g in groups
    ]
    least = whole_chunks(asked, [g.size for g in groups], divisors)
    return dict(zip((g.name for g in groups), least, strict=True))


def _limits(
    model: nn.Module,
    found: Analysis,
    floors: Sequence[int],
    divisors: Sequence[int],
) -> tuple[float, float]:
    """Multiply-adds with all channels and with as few as possible."""
    flops = build_costs(model, found, ['flops'])['flops']
    group = group_of_channel(found.groups)
    # Equal scores keep the first ones: a cost asks how many, not which.
    # float64: sums of 1e11 multiply-adds stay whole.
    every = torch.ones(len(group), dtype=torch.float64)
    lowest = reachable(flops, every, group, floors, divisors)
    return float(flops(every)), lowest


def _prunable_flops(found: Analysis) -> int:
    owner = found.groups.node_group
    return sum(
        multiply_adds(call)
        for call in found.unit.calls(found)
        # Labels of a dimension, [size], -1 for none, to their groups: any that
        # is prunable makes the call cheaper.
        if any((owner[i[i >= 0]] >= 0).any() for i in call.dims.values())
    )


def _counts(
    model: nn.Module, shape: InputShape
) -> tuple[int | None, dict[str, int], dict[str, int] | str]:
    """Multiply-adds as MMEngine counts them: ours, others, and the rest."""
    try:
        # Tracing fails in as many ways as models are written.
        counts, foreign = operator_flops(model, shape)
    except Exception as error:
        text = str(error).partition('\n')[0]
        # Ours is known without it: the report goes on.
        return None, {}, f'not known ({type(error).__name__}: {text})'
    outside = {
        name: count
        for name, count in sorted(counts.items())
        if name not in COUNTED and count
    }
    return counted_flops(counts), outside, foreign
