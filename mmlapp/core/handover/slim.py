# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A slim network as one file, which says what it was narrowed to."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..default_device import on_cpu
from ..errors import PruningError
from ..files import replace_file
from ..narrowing.check_plan import slices_of
from ..plan.carried import KEY, plans_entry, to_entry
from ..plan.plan import ChannelPlan, as_plans
from .fuse import Fold, check_unmasked

# The entry of a state dict that names folded norms.
FOLDS = 'pruning_folds'


def slim_state(
    model: nn.Module,
    plans: Sequence[ChannelPlan] = (),
    folds: Sequence[Fold] = (),
) -> dict[str, Tensor]:
    """Returns the state dict of a slim network, with what it was narrowed to.

    Args:
        model (nn.Module): The network, without masks.
        plans (Sequence[ChannelPlan]): What it was narrowed to, in order.
            Defaults to none: a dense network.
        folds (Sequence[tuple[str, str]]): What :func:`fuse` folded. Defaults
            to none.

    Returns:
        dict[str, Tensor]: Contiguous tensors of their own on the CPU, the
        plans as ``pruning_plans`` and the folds as ``pruning_folds``.

    Raises:
        PruningError: If the network has masks, is not what the last plan
            makes of it, or has anything but tensors in its state dict.
    """
    check_unmasked(model)
    state = {
        # Of their own: some formats refuse tensors that share memory.
        name: value.detach().cpu().contiguous().clone()
        for name, value in _tensors(model).items()
    }
    # Buffers that no state dict has are narrowed, too.
    shapes = {name: b.shape for name, b in model.named_buffers()}
    shapes |= {name: value.shape for name, value in state.items()}
    # A norm that was folded has left no tensors.
    gone = tuple(f'{norm}.' for _, norm in folds)
    slices = slices_of(model, plans[-1]) if plans else {}
    for name, dims in slices.items():
        shape = shapes.get(name)
        for dim, kept in dims.items():
            # An empty tuple is no beginning of any name.
            if name.startswith(gone) or (shape and shape[dim] == kept.count):
                continue
            raise PruningError(
                f'the plan is not that of the network: it keeps {kept.count} '
                f'in dimension {dim} of {name}, whose shape is '
                f'{None if shape is None else tuple(shape)}. Give the plan '
                'that it was narrowed to'
            )
    if plans:
        state[KEY] = plans_entry(plans)
    if folds:
        state[FOLDS] = to_entry([list(pair) for pair in folds])
    return state


def _tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """The state dict of a network, which must have tensors alone."""
    state: dict[str, Tensor] = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise PruningError(
                f'the state dict of the network has {name} of type '
                f'{type(value).__name__}, and a file can hold tensors alone: '
                'return a tensor from get_extra_state'
            )
    return state


def slim_bytes(
    model: nn.Module,
    plans: Sequence[ChannelPlan] = (),
    folds: Sequence[Fold] = (),
) -> bytes:
    """Returns the content of a file of :func:`save_slim`.

    Args:
        model (nn.Module): As there, and so are the others.
        plans (Sequence[ChannelPlan]): What it was narrowed to. Defaults to
            none.
        folds (Sequence[tuple[str, str]]): What :func:`fuse` folded. Defaults
            to none.
    """
    # In memory: torch tells of a full disk in words of its own.
    file = io.BytesIO()
    torch.save({'state_dict': slim_state(model, plans, folds)}, file)
    return file.getvalue()


@on_cpu()
def save_slim(
    model: nn.Module,
    path: str | Path,
    plans: ChannelPlan | Sequence[ChannelPlan] = (),
    folds: Sequence[Fold] = (),
) -> None:
    """Writes a slim network in one file, under a temporary name first.

    Args:
        model (nn.Module): The network, without masks.
        path (str or Path): The file, such as ``slim.pth``.
        plans (ChannelPlan or Sequence[ChannelPlan]): What it was narrowed
            to; several of one that was pruned again. Defaults to none.
        folds (Sequence[tuple[str, str]]): What :func:`fuse` folded. Defaults
            to none.

    Raises:
        PruningError: If the plan is not that of the network, or the file
            cannot be written.

    Examples:
        >>> import tempfile
        >>> from mmlapp.core import load_slim
        >>> model = nn.Linear(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_slim(model, f'{folder}/slim.pth')
        ...     same = load_slim(nn.Linear(3, 2), f'{folder}/slim.pth')
        >>> torch.equal(same.weight, model.weight)
        True
    """
    content = slim_bytes(model, as_plans(plans), folds)
    try:
        replace_file(path, lambda own: own.write_bytes(content))
    except OSError as error:
        raise PruningError(
            f'path={str(path)!r} could not be written ({error.strerror}). '
            'Nothing was left; make room, or choose another folder'
        ) from error
