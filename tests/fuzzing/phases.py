# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pruning phases, whoever decides."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from mmlapp.core import Phase, Pruner, PruningError, narrow

from .agreement import run, same
from .cases import Case
from .training import train_step

SCORES = 'l1', 'l2', 'bn_scale', 'fpgm', 'taylor', 'cpmc', 'group_norm'
# Those that rank by any score, and what the others ask for.
METHODS: dict[str, dict[str, Any]] = {
    'lapp': {},
    'uniform': {},
    'random': {},
    'ranking': {},
    'one_cycle': {},
    'psap': {},
    'soft': {'score': 'operation_aware'},
    'admm': {
        'method': {'type': 'admm', 'rounds': 1, 'updates': 1},
        'score': 'l2',
    },
    'adaptive_l1': {'score': 'l2', 'normalisation': 'none'},
}
DIVISORS = 1, 1, 2, 4
# What is said of a network that a method has nothing to learn from in.
NO_NORM = 'no norm with scale and shift'
# What is said of targets that nothing meets, and of frozen weights.
UNREACHABLE, UNTRAINABLE = 'reachable minimum', 'requires a gradient'


def meets_budget(case: Case) -> None:
    """A phase ends within its targets, and no channel more would fit."""
    rng = case.rng
    divisor, steps = rng.choice(DIVISORS), rng.choice((1, 3))
    method = rng.choice(list(METHODS))
    chosen = {'method': method, 'score': rng.choice(SCORES), **METHODS[method]}
    try:
        model = case.attached(
            divisor=divisor, protect=rng.choice((0, 0, 0.4)), **chosen
        )
    except PruningError as error:
        if NO_NORM not in str(error):
            raise
        return
    pruner = model.pruner
    names = rng.sample(pruner.costs, rng.choice((1, 1, 2)))
    target = {name: rng.uniform(0.2, 1.0) for name in names}
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    try:
        pruner.begin(target, steps)
    except PruningError as error:
        if not _is_refusal(error, pruner):
            raise
        return
    model.train()
    for step in range(steps):
        train_step(model, optimizer, case.network.example(step))
        pruner.step()
    assert pruner.phase == Phase.FINISHED
    assert _fits(pruner, target, pruner.mask), (
        f'{pruner.ratios()} instead of {target}'
    )
    if divisor == 1 and not _near(pruner, target):
        _check_largest(pruner, target)
    expected = run(model.eval(), case.example)
    narrowed = narrow(copy.deepcopy(model), pruner.plan())
    same(expected, run(narrowed, case.example), 'at the end of the phase')


def _is_refusal(error: PruningError, pruner: Pruner) -> bool:
    """Whether a phase rightly does not begin: what is said must be so."""
    if UNTRAINABLE in str(error):
        owners = [la.module for info in pruner.groups for la in info.layers]
        return not any(p.requires_grad for m in owners for p in m.parameters())
    return UNREACHABLE in str(error)


def _fits(pruner: Pruner, target: dict[str, float], mask: Tensor) -> bool:
    gate = mask.double()
    return all(
        float(pruner.cost(name).ratio(gate)) <= value
        for name, value in target.items()
    )


def _near(pruner: Pruner, target: dict[str, float]) -> bool:
    """Whether one of the targets is met within a point."""
    ratios = pruner.ratios()
    return any(ratios[name] > value - 0.01 for name, value in target.items())


def _check_largest(pruner: Pruner, target: dict[str, float]) -> None:
    for channel in (~pruner.mask).nonzero()[:, 0].tolist():
        more = pruner.mask
        more[channel] = True
        assert not _fits(pruner, target, more), (
            f'{pruner.ratios()} of {target}: channel {channel} would fit'
        )
