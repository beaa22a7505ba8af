# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Faults that the checks find, with the smallest network that shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from .cases import Case, RefusedError
from .checks import CHECKS
from .networks import Network, compose, draw

# What is attached, and how often: bypasses take longer.
SETTINGS: dict[str, dict[str, Any]] = {
    'channels': {},
    **{
        f'{unit} {kind}{" norm" * norm}': {
            'unit': unit,
            'bypass': {'type': kind, 'norm': norm},
        }
        for unit in ('channels', 'filters')
        for kind in ('depthwise', 'pointwise', 'grouped')
        for norm in (False, True)
    },
    # Unmerged, as they are counted then.
    **{
        f'channels {kind}': {'bypass': {'type': kind, 'merge': False}}
        for kind in ('asymmetric', 'repvgg', 'twin')
    },
}


@dataclass(frozen=True)
class Fault:
    """A network that does not pass.

    Args:
        check (str): Which check; ``attach`` before all of them.
        setting (str): What was attached, one of ``SETTINGS``.
        error (str): What went wrong.
        network (Network): The network.
    """

    check: str
    setting: str
    error: str
    network: Network

    def __str__(self) -> str:
        return '\n'.join(
            [
                f'{self.network.spec}',
                f'{self.check}, {self.setting}: {self.error}',
                self.network.source,
            ]
        )

    def like(self, other: Fault | None) -> bool:
        """Whether another one is of the same kind."""
        return (
            other is not None
            and self.check == other.check
            and self.error.split(':')[0] == other.error.split(':')[0]
        )


def find_fault(
    network: Network,
    setting: str = 'channels',
    checks: Iterable[str] = tuple(CHECKS),
) -> Fault | None:
    """Runs checks on a network; returns the first fault.

    Args:
        network (Network): The network.
        setting (str): What is attached. Defaults to ``channels``.
        checks (Iterable[str]): Names of checks. Defaults to all.
    """
    case = Case(network, SETTINGS[setting])
    name = 'attach'
    try:
        assert case.masked
        for name in checks:
            # Each draws its masks anew: alone it finds what it found here.
            case.rng.seed(f'{network.spec.seed} {name}')
            CHECKS[name](case)
    except RefusedError:
        return None
    except Exception as error:
        # Whatever it is, nobody expects it of a network that runs.
        text = f'{type(error).__name__}: {error}'
        return Fault(name, setting, text, network)
    return None


def smallest(fault: Fault) -> Fault:
    """Leaves out blocks as long as the fault stays.

    Args:
        fault (Fault): Of a network of many blocks.
    """
    spec = fault.network.spec
    checks = [fault.check] if fault.check in CHECKS else []
    for position in reversed(range(len(spec.blocks))):
        shorter = spec.without(position)
        found = find_fault(compose(shorter), fault.setting, checks)
        if fault.like(found):
            return smallest(found)
    return fault


def setting_of(seed: int) -> str:
    """Half of all networks get no bypass, the others one of all kinds."""
    if seed % 4 < 3:
        return 'channels'
    return list(SETTINGS)[1 + seed // 4 % (len(SETTINGS) - 1)]


def checks_of(seed: int, most: int = len(CHECKS)) -> list[str]:
    """Returns which checks a network gets, in a budget of time.

    Args:
        seed (int): Its number.
        most (int): How many of them. Defaults to all.
    """
    names = list(CHECKS)
    if 'bypass' not in SETTINGS[setting_of(seed)]:
        names.remove('merges')
    Random(seed).shuffle(names)
    return names[:most]


def fuzz(seed: int, most: int = len(CHECKS)) -> Fault | None:
    """Makes the network of a seed and checks it.

    Args:
        seed (int): The same one gives the same network.
        most (int): How many checks it gets at most. Defaults to all.
    """
    network = compose(draw(seed))
    return find_fault(network, setting_of(seed), checks_of(seed, most))
