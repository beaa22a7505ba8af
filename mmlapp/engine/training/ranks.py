# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether all processes of a distributed run prune alike."""

from __future__ import annotations

import zlib

import torch
from mmengine import dist
from torch import Tensor

from mmlapp.core import LAPP, PruningError


def checksums(lapp: LAPP) -> Tensor:
    """Returns a row per group: threshold, mask, scores; and one for the rest.

    Args:
        lapp (LAPP): Thresholds and masks of this process.

    Returns:
        Tensor: Shape ``[groups + 1, 3]``, int64, on the device of the masks.
    """
    mask = lapp.mask[:-1].cpu()
    sizes = [group.size for group in lapp.groups]
    rows = [
        [_checksum(threshold), _checksum(kept), _checksum(scores)]
        for threshold, kept, scores in zip(
            lapp.threshold.detach().cpu(),
            mask.split(sizes),
            lapp.scores.cpu().split(sizes),
            strict=True,
        )
    ]
    rest = [_checksum(lapp.progress), _checksum(lapp.state.cpu()), 0]
    return torch.tensor([*rows, rest], device=lapp.mask.device)


def _checksum(values: Tensor) -> int:
    return zlib.crc32(values.contiguous().numpy().tobytes())


def check_ranks(lapp: LAPP) -> None:
    """Compares thresholds, masks and scores of all processes.

    All of them must call it; every one raises if any differs.

    Args:
        lapp (LAPP): Thresholds and masks of this process.

    Raises:
        PruningError: With the first layer that differs.
    """
    if dist.get_world_size() == 1:
        return
    everyone = dist.all_gather(checksums(lapp))
    names = [group.name for group in lapp.groups]
    for rank, theirs in enumerate(everyone):
        differs = (theirs != everyone[0]).nonzero()
        if not len(differs):
            continue
        row, column = differs[0].tolist()
        if row < len(names):
            what = ('threshold', 'mask', 'scores')[column]
            where = f'the {what} of {names[row]}'
        else:
            where = ('the schedule', 'the controller')[column]
        raise PruningError(
            f'rank {rank} differs from rank 0 in {where}: the processes no '
            'longer train the same model. Resume from the last checkpoint; '
            'if it happens again, look for weights that are changed on one '
            'rank alone, such as by a hook or by unequal random numbers'
        )
