# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Plans and checkpoints of networks at random, damaged and forged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from mutations import mutate_file, mutate_plan, mutate_weights
from torch import Tensor

from mmlapp.core import ChannelPlan, PruningError, narrow
from mmlapp.engine.checkpoints.reading import read_trained
from mmlapp.engine.checkpoints.weights import check_weights
from mmlapp.engine.models.plans import KEY

from .agreement import run
from .cases import Case, RefusedError
from .networks import compose, draw

# Files made from one network.
EACH = 25


@dataclass(frozen=True)
class Whole:
    """A narrow network and what belongs into its files.

    Args:
        case (Case): The network.
        plan (ChannelPlan): What it keeps.
        weights (dict[str, Tensor]): Its state dict.
    """

    case: Case
    plan: ChannelPlan
    weights: dict[str, Tensor]

    def checkpoint(self, weights: dict[str, Tensor]) -> dict[str, Any]:
        """Returns what a file holds."""
        # The plan travels in the weights, as bytes.
        text = json.dumps([self.plan.to_dict()]).encode()
        entry = torch.tensor(list(text), dtype=torch.uint8)
        return {
            'state_dict': {**weights, KEY: entry},
            'meta': {'seed': self.case.network.spec.seed},
        }


@lru_cache(maxsize=1)
def whole(number: int) -> Whole:
    """Makes a narrow network; the next seed where nothing can be pruned.

    Args:
        number (int): Another one for each number.
    """
    for seed in range(1000 * number, 1000 * number + 100):
        case = Case(compose(draw(seed)))
        try:
            plan = case.mask('random')
        except RefusedError:
            continue
        model = case.narrowed(plan)
        return Whole(case, plan, model.state_dict())
    raise AssertionError('100 networks in which nothing can be pruned')


def _plan_file(made: Whole, seed: int, path: Path) -> None:
    path.write_bytes(mutate_plan(made.plan.to_json(), seed))
    plan = ChannelPlan.load(path)
    _means_the_same(made, plan, made.weights, made.weights)


def _checkpoint_file(made: Whole, seed: int, path: Path) -> None:
    torch.save(made.checkpoint(made.weights), path)
    path.write_bytes(mutate_file(path.read_bytes(), seed))
    _read(made, path, made.weights)


def _forged_weights(made: Whole, seed: int, path: Path) -> None:
    # Other numbers in a whole file are nothing that anybody could notice.
    weights = mutate_weights(made.weights, seed)
    torch.save(made.checkpoint(weights), path)
    _read(made, path, weights)


def _read(made: Whole, path: Path, written: Mapping[str, Tensor]) -> None:
    trained = read_trained(path)
    assert len(trained.plans) == 1, 'the plan is lost'
    _means_the_same(made, trained.plans[0], trained.weights, written)


def _means_the_same(
    made: Whole,
    plan: ChannelPlan,
    weights: dict[str, Tensor],
    written: Mapping[str, Tensor],
) -> None:
    """What was accepted is the network that was written."""
    assert plan == made.plan, 'another plan is accepted'
    model = narrow(made.case.network.build(), plan)
    check_weights(model, weights)
    model.load_state_dict(weights)
    for name, value in model.state_dict().items():
        assert torch.equal(value, written[name]), f'{name} is another one'
    run(model, made.case.example)


KINDS: tuple[Callable[[Whole, int, Path], None], ...] = (
    _plan_file,
    _checkpoint_file,
    _forged_weights,
)


def find_file_fault(seed: int, path: Path) -> str | None:
    """Reads a damaged file; it may be refused, or mean what it meant.

    Args:
        seed (int): The same one gives the same file.
        path (Path): Where to write it.

    Returns:
        str or None: What went wrong; None where nothing did.
    """
    made, kind = whole(seed // EACH), KINDS[seed % len(KINDS)]
    try:
        kind(made, seed, path)
    except PruningError:
        return None
    except RuntimeError as error:
        # Names and shapes are compared where torch loads the weights.
        if 'Error(s) in loading state_dict' in str(error):
            return None
        return f'file {seed}, {kind.__name__}: {error!r}'
    except Exception as error:
        return f'file {seed}, {kind.__name__}: {error!r}'
    return None
