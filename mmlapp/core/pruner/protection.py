# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Channels with large gradients are spared, whoever decides."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import PruningError
from ..numbers import check_number
from ..score.normalise import by_rank, normalised
from ..segments import segments


def check_protect(share: float) -> float:
    """Returns the share of every group that is spared.

    Args:
        share (float): In [0, 1); 0 spares none.

    Raises:
        PruningError: If it is something else; sparing all is sparing none.
    """
    checked: float = check_number('protect', share, least=0, most=1)
    if checked == 1:
        raise PruningError(
            f'protect={share!r}: a method that may remove nothing cannot '
            'prune; expected a number from 0 to less than 1'
        )
    return checked


def protected(harm: Tensor, sizes: Sequence[int], share: float) -> Tensor:
    """Returns which channels are spared.

    Args:
        harm (Tensor): Mean squared gradient of the task loss by the gate,
            ``[channels]``.
        sizes (Sequence[int]): Channels of every group.
        share (float): Of every group, rounded down.

    Returns:
        Tensor: Bool, ``[channels]``: those with the largest harm, if they
        have any.

    Examples:
        >>> import torch
        >>> protected(torch.tensor([1.0, 3.0, 2.0, 0.0]), [3, 1], 0.4)
        tensor([False,  True, False, False])
    """
    parts = segments(sizes, harm.device)
    # 0.29 * 100 is a little less than 29 in floating point.
    count = (share * parts.count.double() + 1e-9).floor()
    rank = parts.ranks(harm, descending=True)
    return (rank < count[parts.owner]) & (harm > 0)


def lifted(ranking: Tensor, *above: Tensor) -> Tensor:
    """Puts channels before all others, in their order.

    Args:
        ranking (Tensor): The larger, the longer kept; ``[channels]``.
        *above (Tensor): Which ones, bool ``[channels]``, the most important
            ones last.

    Examples:
        >>> import torch
        >>> first = torch.tensor([False, True, False])
        >>> lifted(torch.tensor([5.0, 1.0, 3.0]), first).argsort()
        tensor([2, 0, 1])
    """
    order = normalised(by_rank, ranking)
    # Ranks lie in (0, 1), so that a whole number passes all of them.
    for place, which in enumerate(above):
        order = order + 2**place * which
    return order
