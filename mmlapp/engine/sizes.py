# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Sizes of groups and names of costs, as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CHANNELS, HEADS = 'channels', 'heads'
# Of costs that are not called as they are registered.
NAMES = {'flops': 'FLOPs'}


def size_text(size: int, width: int | None = None) -> str:
    """Writes how large a group is.

    Args:
        size (int): Parts of the group.
        width (int, optional): Channels of each where these are heads of
            attention. Defaults to None: they are channels.

    Examples:
        >>> size_text(64), size_text(12, 64)
        ('64', '12 heads of 64')
    """
    return f'{size}' if width is None else f'{size} {HEADS} of {width}'


def left_text(size: int, left: int, width: int | None = None) -> str:
    """Writes what is left of a group.

    Args:
        size (int): Parts of the group.
        left (int): How many of them stay.
        width (int, optional): See :func:`size_text`.

    Examples:
        >>> left_text(64, 32), left_text(12, 7, 64)
        ('64 → 32', '12 → 7 heads')
    """
    return f'{size} → {left}' + ('' if width is None else f' {HEADS}')


def sums_by_kind(
    sizes: Mapping[str, Sequence[int]],
    heads: Mapping[str, int],
    others: str = CHANNELS,
) -> dict[str, list[int]]:
    """Adds up channels, and apart from them heads.

    Args:
        sizes (Mapping[str, Sequence[int]]): Numbers of each group by name,
            equally many.
        heads (Mapping[str, int]): Width of the heads of a group, by name.
        others (str): What parts are that are no heads. Defaults to
            channels.

    Returns:
        dict[str, list[int]]: Sums by kind; heads only where there are some.

    Examples:
        >>> sums_by_kind({'a': (64, 32), 'b': (8, 8), 'c': (12, 7)}, {'c': 4})
        {'channels': [72, 40], 'heads': [12, 7]}
    """
    kinds: dict[str, list[Sequence[int]]] = {others: []}
    for name, numbers in sizes.items():
        kind = HEADS if name in heads else others
        kinds.setdefault(kind, []).append(numbers)
    # Where all groups consist of heads, no line tells of 0 channels.
    if HEADS in kinds and not kinds[others]:
        del kinds[others]
    # [groups][numbers] -> [numbers]
    return {
        kind: [sum(column) for column in zip(*rows, strict=True)]
        for kind, rows in kinds.items()
    }


def cost_name(cost: str) -> str:
    """What a person calls a cost.

    Args:
        cost (str): Its registered name.

    Examples:
        >>> cost_name('flops'), cost_name('latency')
        ('FLOPs', 'latency')
    """
    return NAMES.get(cost, cost)
