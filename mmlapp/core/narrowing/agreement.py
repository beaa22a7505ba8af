# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether the entries of a plan agree with each other.

Each may be well formed and fit its tensor, and the narrow network still not
run, or run on the wrong channels. A prunable network knows what follows from
its groups. A dense one was not traced and knows only which of its tensors are
one: even weight and bias of a layer may belong to different channels, where a
network reads them itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ..plan.plan import ChannelPlan
from ..pruner import Pruner

PARTS = 'slices', 'attributes', 'details'


def find_disagreement(model: nn.Module, plan: ChannelPlan) -> str | None:
    """Returns which entries contradict each other; None if none do.

    Args:
        model (nn.Module): The network, dense or prunable.
        plan (ChannelPlan): Whose entries fit its tensors.
    """
    # Against what is known of the network, and of the plan against itself.
    found = [*_against_groups(model, plan), *_between_names(model, plan)]
    return found[0] if found else None


def _against_groups(model: nn.Module, plan: ChannelPlan) -> Iterator[str]:
    """Entries that are not those that follow from the groups."""
    pruner = model._modules.get('pruner')
    if not isinstance(pruner, Pruner) or plan.unit != pruner.layout.unit:
        return
    if not _is_own(pruner, plan):
        yield from _within_groups(pruner, plan)
        return
    kept = [plan.groups[group.name].mask() for group in pruner.groups]
    # [size of the group] each -> [channels], in global order
    own = pruner.layout.plan(torch.cat(kept), {}, {})
    for part in PARTS:
        theirs, mine = getattr(plan, part), getattr(own, part)
        # Names of either: an entry too many is as wrong as one that is
        # missing.
        for name in {**theirs, **mine}:
            if theirs.get(name) != mine.get(name):
                yield f'its {part} of {name} are not those of its groups'
    # A merged branch is gone; the others follow from the groups too.
    for name, branch in plan.branches.items():
        mine = own.branches.get(name)
        if mine is not None and branch.inputs != mine.inputs:
            yield f'the inputs of branch {name} are not those of its groups'
        if mine is not None and branch.outputs != mine.outputs:
            yield f'the outputs of branch {name} are not those of its groups'


def _is_own(pruner: Pruner, plan: ChannelPlan) -> bool:
    """Whether a plan has the groups of a pruner: others have another scope."""
    mine = {group.name: group.size for group in pruner.groups}
    theirs = {name: kept.size for name, kept in plan.groups.items()}
    return mine == theirs


def _within_groups(pruner: Pruner, plan: ChannelPlan) -> Iterator[str]:
    """Entries that do not keep the same channels of a group as others do.

    Whatever the scope of a plan was, channels that meet in the network go
    together, or it was made for one of another wiring.
    """
    # Whether the plan keeps it, of every channel: 1 or 0, -1 if not known yet.
    kept = torch.full((sum(group.size for group in pruner.groups),), -1)
    for site, channels in pruner.layout.sites:
        found = (
            plan.attributes.get(site.name)
            if site.attribute
            else plan.slices.get(site.name, {}).get(site.dim)
        )
        # What the plan does not name stays whole.
        mask = torch.ones_like(channels) if found is None else found.mask()
        # [size] -> indices with a channel, of which one may have several.
        owner = channels[channels >= 0]
        mine, known = mask[channels >= 0].to(kept), kept[owner]
        kept[owner] = mine
        wrong = ((known >= 0) & (known != mine)) | (kept[owner] != mine)
        if bool(wrong.any()):
            names = [g.name for g in pruner.groups for _ in range(g.size)]
            group = names[int(owner[wrong][0])]
            yield (
                f'it keeps others of {site.name} than of {group}, with which '
                'they go together in this network'
            )
            return


def _between_names(model: nn.Module, plan: ChannelPlan) -> Iterator[str]:
    """Names of one tensor that keep different parts of it."""
    first: dict[int, str] = {}
    for owner, module in model.named_modules(remove_duplicate=False):
        for store in (module._parameters, module._buffers):
            for leaf, tensor in store.items():
                name = f'{owner}.{leaf}' if owner else leaf
                if tensor is None or name not in plan.slices:
                    continue
                other = first.setdefault(id(tensor), name)
                if plan.slices[other] != plan.slices[name]:
                    yield f'{other} and {name} are one tensor and keep others'
