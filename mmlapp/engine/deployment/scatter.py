# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Narrow weights at their places in the wide network, by the plan alone.

The way back from what narrowing did, which shares no code with it: a mistake
in one shows up against the other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from mmlapp.core import ChannelPlan, PruningError
from mmlapp.core.plan.plan import BranchPlan, Kept

# Large beside any weight: a mask that hides it is no matter of rounding.
GARBAGE = 10.0
# Of a branch that consists of several, each with tensors of the same names.
PART = re.compile(r'parts\.\d+\.')


def scatter_weights(
    wide: Mapping[str, Tensor], narrow: Mapping[str, Tensor], plan: ChannelPlan
) -> dict[str, Tensor]:
    """Puts narrow weights into wide tensors that are full of garbage.

    Args:
        wide (Mapping[str, Tensor]): State dict of the wide network.
        narrow (Mapping[str, Tensor]): That of the narrow one.
        plan (ChannelPlan): What it kept.

    Returns:
        dict[str, Tensor]: A state dict of the wide network.

    Raises:
        PruningError: If a weight has no place.
    """
    # Of a branch the wide names are not the narrow ones: parts vanish, and
    # split convolutions have others.
    branches = tuple(f'{name}.bypass.' for name in plan.branches)
    found = {
        name: _garbage(value)
        for name, value in wide.items()
        if name in narrow or name.startswith(branches)
    }
    # What has found its place is taken out; what is left is sliced plainly.
    rest = dict(narrow)
    for name, entry in plan.branches.items():
        # Where filters were removed, the outputs of those that are left.
        rest.pop(f'{name}.kept', None)
        prefix = f'{name}.bypass.'
        branch = {k: rest.pop(k) for k in narrow if k.startswith(prefix)}
        _scatter_branch(found, branch, prefix, entry)
    for name, details in plan.details.items():
        # A layer that lost stripes: rows by position in place of a kernel.
        if f'{name}.filters' in rest:
            del rest[f'{name}.filters']
            stripes = rest.pop(f'{name}.weight')
            _scatter_stripes(found, name, stripes, plan, details['stripes'])
    for name, value in rest.items():
        _put(found, name, value, plan.slices.get(name, {}))
    return found


def _garbage(value: Tensor) -> Tensor:
    """Positive, since a variance must be; whole numbers stay."""
    if not value.is_floating_point():
        return value.clone()
    return GARBAGE * (0.5 + torch.rand_like(value))


def _put(
    found: dict[str, Tensor],
    name: str,
    value: Tensor,
    dims: Mapping[int, Kept],
) -> None:
    """Writes a tensor where its indices were before."""
    wide = found.get(name)
    shape = None if wide is None else list(wide.shape)
    for dim, kept in dims.items():
        if shape is not None and dim < len(shape):
            shape[dim] = kept.count
    if wide is None or list(value.shape) != shape:
        raise _misfit(name, value)
    # One index for each dimension, as numpy.ix_ makes them: where pruned the
    # kept positions, elsewhere all.
    index = [
        torch.tensor(dims[d].index if d in dims else range(size))
        # [size of d] among [1, ..., 1]: together they broadcast to `value`.
        .view([-1 if d == e else 1 for e in range(wide.dim())])
        .long()
        for d, size in enumerate(wide.shape)
    ]
    wide[tuple(index)] = value


def _scatter_stripes(
    found: dict[str, Tensor],
    name: str,
    value: Tensor,
    plan: ChannelPlan,
    kept: Kept,
) -> None:
    """Writes the positions of a kernel that are left.

    Args:
        found (dict[str, Tensor]): Wide tensors.
        name (str): The layer.
        value (Tensor): Its rows, by position and then by filter.
        plan (ChannelPlan): What it kept of its inputs.
        kept (Kept): Which stripes, numbered filter by filter.
    """
    wide = found[f'{name}.weight']
    inputs = plan.slices.get(f'{name}.weight', {}).get(1)
    columns = range(wide.shape[1]) if inputs is None else inputs.index
    if value.shape[:2] != (kept.count, len(columns)):
        raise _misfit(f'{name}.weight', value)
    # [positions, out], in the order of the rows; each [rows, 1].
    where = kept.mask().view(len(wide), -1).T
    position, filters = where.nonzero().T[:, :, None]
    # [out, in, ...] -> [out, in, positions] and back.
    flat = wide.flatten(2).contiguous()
    flat[filters, torch.tensor(columns), position] = value.flatten(1)
    found[f'{name}.weight'] = flat.view(wide.shape)


def _scatter_branch(
    found: dict[str, Tensor],
    branch: Mapping[str, Tensor],
    prefix: str,
    entry: BranchPlan,
) -> None:
    """Writes a branch, or all that it consists of."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in branch.items():
        part = PART.match(name, len(prefix))
        parts[f'{prefix}{part[0] if part else ""}'][name] = value
    for start, tensors in parts.items():
        _scatter_conv(found, tensors, start, entry)


def _scatter_conv(
    found: dict[str, Tensor],
    branch: Mapping[str, Tensor],
    prefix: str,
    entry: BranchPlan,
) -> None:
    """Writes one convolution of a branch, and the norm behind it.

    A branch through which nothing runs any more has no weights: the wide one
    keeps its random numbers, which the masks must hide.
    """
    weight = f'{prefix}conv.weight'
    whole = entry.inputs.whole and entry.outputs.whole
    for name, value in branch.items():
        own = name.removeprefix(f'{prefix}conv.')
        if whole or name.startswith(f'{prefix}norm.'):
            # Depthwise, and norms: one row per output; a counter has none.
            dims = {0: entry.outputs} if value.dim() else {}
            _put(found, name, value, {} if whole else dims)
        elif own == 'weight' or own.startswith('convs.'):
            if weight not in found:
                raise _misfit(name, value)
            # convs.0.weight -> 0, beside which are inputs0 and outputs0.
            part = own.removeprefix('convs.').removesuffix('weight')[:-1]
            ends = [
                branch.get(f'{prefix}conv.{end}{part}', torch.arange(len(k)))
                for end, k in (
                    ('inputs', entry.inputs.index),
                    ('outputs', entry.outputs.index),
                )
            ]
            _put_groups(found[weight], value, ends, entry)
        elif not own.startswith(('inputs', 'outputs')):
            raise _misfit(name, value)


def _put_groups(
    wide: Tensor, value: Tensor, ends: list[Tensor], entry: BranchPlan
) -> None:
    """Writes groups of a grouped convolution that kept equally many channels.

    Args:
        wide (Tensor): Weight of the whole one, ``[out, in / groups, ...]``.
        value (Tensor): Weight of the groups, ``[rows, columns, ...]``.
        ends (list[Tensor]): Their inputs, ``[groups * columns]``, and outputs,
            ``[rows]``, among those that are left.
        entry (BranchPlan): The latter.
    """
    # Among those that are left -> in the wide layer.
    inputs, outputs = (
        torch.tensor(kept.index)[end.cpu()]
        for kept, end in zip((entry.inputs, entry.outputs), ends, strict=True)
    )
    # [outputs, inputs of a group, ...].
    columns = value.shape[1]
    groups = len(inputs) // columns
    # Every output reads all inputs of its group: [rows, columns].
    reads = inputs.view(groups, columns)
    reads = reads.repeat_interleave(len(outputs) // groups, dim=0)
    # In the wide layer -> inside its group of that layer: the weight has
    # in / groups columns, and groups of inputs lie one after the other.
    wide[outputs[:, None], reads % wide.shape[1]] = value


def _misfit(name: str, value: Tensor) -> PruningError:
    return PruningError(
        f'the plan has no place for {name} of shape {tuple(value.shape)}'
    )
