# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The floor of a group: the least share of its channels that is kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ..choices import Choices
from ..errors import PruningWarning
from ..numbers import check_number

# From the width of a group to the least share of it, in [0, 1].
LeastShare = Callable[[int], float]
MIN_KEEPS: Choices[Callable[..., LeastShare]] = Choices('min_keep')


class Flat:
    """The same share of every group.

    Args:
        share (float): In [0, 1].
    """

    def __init__(self, share: float) -> None:
        check_number('min_keep', share, least=0, most=1)
        self.share = share

    def __call__(self, width: int) -> float:
        """Returns the share.

        Args:
            width (int): Channels of the group.
        """
        return self.share


NONE = Flat(0)


@MIN_KEEPS.register('by_width')
class ByWidth:
    r"""Narrow groups keep more: :math:`1 - a (1 - e^{-k N})` of N channels.

    The function of OCSPruner (arXiv 2501.13439), which says how much of a
    group may go.

    Args:
        most (float): :math:`a`, the share of a very wide group that may go.
            Defaults to 0.75.
        rate (float): :math:`k`, by channel. Defaults to 0.015.

    Raises:
        PruningError: If ``most`` lies outside [0, 1] or ``rate`` is not
            positive.

    Examples:
        >>> share = ByWidth()
        >>> [round(share(width), 2) for width in (16, 64, 512)]
        [0.84, 0.54, 0.25]
    """

    def __init__(self, most: float = 0.75, rate: float = 0.015) -> None:
        check_number('min_keep by_width most', most, least=0, most=1)
        check_number('min_keep by_width rate', rate, above=0)
        self.most, self.rate = most, rate

    def __call__(self, width: int) -> float:
        """Returns the least share that is kept.

        Args:
            width (int): Channels of the group.
        """
        return 1 - self.most * (1 - math.exp(-self.rate * width))


@MIN_KEEPS.register('sole_path')
class SolePath:
    """A share of the groups that information cannot go around.

    Where a residual block or a branch loses its inner channels, its input
    still goes on beside them. A stream, the layers of a plain chain and the
    tower of a head have nothing beside them (``sole_paths.py``).

    Args:
        share (float): Of these groups. Defaults to 0.5.
        others (float): Of all others. Defaults to 0.

    Raises:
        PruningError: If one lies outside [0, 1].
    """

    def __init__(self, share: float = 0.5, others: float = 0) -> None:
        check_number('min_keep sole_path share', share, least=0, most=1)
        check_number('min_keep sole_path others', others, least=0, most=1)
        self.share, self.others = share, others

    def __call__(self, width: int) -> float:
        """Returns the share of a group that there is a way around.

        Args:
            width (int): Channels of the group.
        """
        return self.others

    def of_sole_path(self, width: int) -> float:
        """Returns the share of a group that there is none around.

        Args:
            width (int): Channels of the group.
        """
        return self.share


@MIN_KEEPS.register('near_uniform')
class NearUniform:
    """A share of what uniform widths would keep, where nothing goes around.

    The floor follows the target: groups that information cannot go around
    (``sole_paths.py``) keep this share of the channels that they have in the
    network of the same cost whose groups all keep the same share. As that
    network is within the budget, no target is out of reach for it.

    Args:
        share (float): Of the uniform network's channels. Defaults to 0.9.

    Raises:
        PruningError: If it lies outside [0, 1].
    """

    def __init__(self, share: float = 0.9) -> None:
        check_number('min_keep near_uniform share', share, least=0, most=1)
        self.share = share

    def __call__(self, width: int) -> float:
        """Returns the least share before a target is known, which is none.

        Args:
            width (int): Channels of the group.
        """
        return 0

    def of_uniform(self, count: int, divisor: int) -> int:
        """Returns the floor of a group that there is no way around.

        Args:
            count (int): Channels that it has in the uniform network.
            divisor (int): What its numbers of channels are multiples of.

        Examples:
            >>> (
            ...     NearUniform().of_uniform(11, 1),
            ...     NearUniform().of_uniform(11, 4),
            ... )
            (9, 8)
        """
        # Rounded down: rounded up, small groups might not fit the budget.
        least = int(self.share * count + 1e-9)
        return least - least % divisor


def least_share(
    choice: float | str | Mapping[str, Any] | LeastShare,
) -> LeastShare:
    """Returns a choice of the floor as a function of the width.

    Args:
        choice (float, str, Mapping or Callable): One share for all groups,
            a registered name, a dictionary of it as ``type`` and settings,
            or the function itself.

    Raises:
        PruningError: If it is none of that, or a number outside [0, 1].

    Examples:
        >>> least_share(0.3)(64)
        0.3
    """
    if isinstance(choice, (str, Mapping)):
        built: LeastShare = MIN_KEEPS.build(choice)
        return built
    if callable(choice):
        return choice
    return Flat(choice)


def warn_of_no_sole_path(share: LeastShare) -> None:
    """Says that a share of sole paths is one of nothing.

    Args:
        share (Callable): What somebody asked for, see :func:`least_share`.
    """
    if isinstance(share, (SolePath, NearUniform)) and share.share > 0:
        near = isinstance(share, NearUniform)
        name = 'near_uniform' if near else 'sole_path'
        warnings.warn(
            f'min_keep={name!r}: there is a way around every '
            'group that can be pruned, so that its share holds nothing. Leave '
            'it out, or say a share of all groups',
            PruningWarning,
            stacklevel=4,
        )


def least_channels(
    share: LeastShare, width: int, floor: int, sole_path: bool = False
) -> int:
    """Returns the fewest channels that a group keeps.

    Args:
        share (Callable): See :func:`least_share`.
        width (int): Channels of the group.
        floor (int): Without which the network would not run.
        sole_path (bool): Whether information cannot go around it. Defaults
            to False.

    Raises:
        PruningError: If the function returns no number in [0, 1].

    Examples:
        >>> least_channels(least_share(0.3), 16, 1)
        5
    """
    name = f'min_keep of a group of {width} channels'
    # One that does not tell them apart treats all groups alike.
    asked = getattr(share, 'of_sole_path', share) if sole_path else share
    value: float = check_number(name, asked(width), least=0, most=1)
    # Rounded up; 0.07 * 100 is a little more than 7 in floating point.
    return max(floor, math.ceil(value * width - 1e-9))
