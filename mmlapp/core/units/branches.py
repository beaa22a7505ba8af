# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which layers get a branch, and why the others get none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import nn

from ..bypass.branch import BRANCHES, Branch
from ..errors import LayerRefusedError, PruningWarning
from ..mask.masking import sharing_modules
from ..trace import Site
from .base import Request

# Who freezes a layer freezes all in it, again at every call of train().
FROZEN = (
    'its weight is frozen (requires_grad=False), and so would be what runs '
    'beside it'
)
# Where there is no layer that could have one.
UNPRUNED = 'none is pruned that emits channels of its own'
Refusal = Callable[[str, nn.Module], str | None]


def plan_branches(
    request: Request, wanted: Collection[str], refuse: Refusal
) -> tuple[dict[str, Branch], dict[str, str]]:
    """Builds the branch of every wanted layer, in order of the forward.

    Args:
        request (Request): The network, and the branch that was asked for.
        wanted (Collection[str]): Names of the layers.
        refuse (Callable): Says why a layer can have none beside this unit.

    Returns:
        tuple[dict, dict]: Branches by name of the layer; the other layers
        and the reason.
    """
    built: dict[str, Branch] = {}
    without: dict[str, str] = {}
    if request.bypass is None:
        return built, dict.fromkeys(wanted, 'no bypass was asked for')
    record = request.record
    sharing = sharing_modules(request.model.modules())
    for site in record.sites:
        name = site.module
        if site not in record.producers or name not in wanted:
            continue
        reason = _reason_against(request, site, sharing, refuse)
        if reason is not None:
            without[name] = reason
            continue
        layer = request.model.get_submodule(name)
        try:
            built[name] = BRANCHES.build(request.bypass, layer)
        except LayerRefusedError as error:
            without[name] = str(error)
    if not built:
        reasons = sorted(set(without.values())) or [UNPRUNED]
        warnings.warn(
            f'bypass={request.bypass["type"]!r} was added to no layer: '
            + '; '.join(reasons),
            PruningWarning,
            stacklevel=5,
        )
    return built, without


def _reason_against(
    request: Request,
    site: Site,
    sharing: Mapping[int, Sequence[Any]],
    refuse: Refusal,
) -> str | None:
    """Why a layer gets no branch whatever the branch is, or None."""
    record, name = request.record, site.module
    layer = request.model.get_submodule(name)
    # 'backbone.conv1.weight' -> 'weight', of the layer itself.
    weight = layer._parameters.get(site.name.rpartition('.')[2])
    if name in record.living_modules:
        return 'it computes over its channels'
    if len(sharing[id(weight)]) > 1:
        return 'it shares its weight with another layer'
    if weight is not None and not weight.requires_grad:
        return FROZEN
    return refuse(name, layer) or record.irregular.get(name)
