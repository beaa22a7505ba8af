# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the processes of a distributed run tell each other in a step."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Averages over the processes of a distributed run.

    Args:
        tensor (Tensor): Of the same shape in all of them. It may be changed.
    """
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
        tensor = tensor / dist.get_world_size()
    return tensor


def holds_on_all(flag: bool, device: torch.device) -> bool:
    """Whether something holds on every process of a distributed run.

    Args:
        flag (bool): Whether it holds on this one.
        device (torch.device): Where the processes exchange tensors.
    """
    # One vote each: the mean is 1 if nobody says no.
    votes = mean_over_ranks(torch.tensor(float(flag), device=device))
    return float(votes) == 1


def mean_gradient(gate: Tensor, loss_scale: float) -> tuple[Tensor, Tensor]:
    """Returns the gradient by the gate, mean over processes.

    Args:
        gate (Tensor): The gate after a backward, ``[channels]``.
        loss_scale (float): Factor on the losses.

    Returns:
        tuple[Tensor, Tensor]: ``[channels]``, and whether it is of use: some
        process has one, and it is finite.
    """
    gradient = gate.grad
    found = gradient is not None
    if gradient is None:
        gradient = torch.zeros_like(gate)
    # [channels + 1]: at the end the share of processes with a gradient.
    # All processes must reduce, also those that had no backward.
    reduced = mean_over_ranks(
        torch.cat([gradient / loss_scale, torch.full_like(gate[:1], found)])
    )
    # After an overflow a scaler skips the optimizer's step, too.
    return reduced[:-1], (reduced[-1] > 0) & reduced[:-1].isfinite().all()


def read_flags(*flags: Tensor | None) -> list[bool]:
    """Reads what is true all at once: a GPU is waited for once.

    Args:
        *flags (Tensor, optional): Bool scalars; one that is None is true.

    Examples:
        >>> read_flags(torch.tensor(False), None, torch.tensor(True))
        [False, True, True]
    """
    asked = [flag for flag in flags if flag is not None]
    found = iter(torch.stack(asked).tolist() if asked else [])
    return [flag is None or next(found) for flag in flags]
