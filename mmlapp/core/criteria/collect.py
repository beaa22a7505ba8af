# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The scores of a network, all those that can be had."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PruningError
from ..pruner import Pruner
from ..score import SCORES, Scorer
from ..score.functionality import objective
from ..score.scorer import evaluating


@dataclass(frozen=True)
class Calibration:
    """Batches for scores that ask for data.

    Args:
        count (int): How many.
        batches (Callable): Given a number of batches and whether outputs of
            the network are wanted instead of losses, returns functions that
            run the network on one batch each, see :meth:`Score.prepare`.
    """

    count: int
    batches: Callable[[int, bool], Iterable[Callable[[], Any]]]


@dataclass(frozen=True)
class Collected:
    """Scores of a network.

    Args:
        values (dict[str, Tensor]): By name, as the score says them; float64,
            ``[channels]``.
        order (dict[str, Tensor]): Likewise, normalised: what the method
            ``ranking`` ranks by.
        left_out (dict[str, str]): Why others cannot be had, by name.
    """

    values: dict[str, Tensor]
    order: dict[str, Tensor]
    left_out: dict[str, str]


def collect_scores(
    model: nn.Module,
    names: Sequence[str] | None,
    normalisation: str,
    calibration: Calibration | None,
    progress: Callable[[str], None],
) -> Collected:
    """Computes scores of the weights as they are.

    Args:
        model (nn.Module): The network, with its child ``pruner``.
        names (Sequence[str], optional): Of the scores; None for all that
            can be had.
        normalisation (str): How scores of layers become comparable.
        calibration (Calibration, optional): Data for those that ask for it.
        progress (Callable): Is told what is being done.

    Raises:
        PruningError: If a score that was named is unknown or cannot be had.
    """
    check_names(names)
    # What was asked for by name must be there; of all scores those that cannot
    # be had are left out, with the reason.
    values, order, left_out = {}, {}, {}
    for name in list(SCORES) if names is None else names:
        progress(f'computing {name}')
        try:
            scores = _scores(model, name, normalisation, calibration)
        except PruningError as error:
            reason = str(error).removeprefix(f'score={name}: ')
            if names is not None:
                raise PruningError(f'score={name}: {reason}') from error
            left_out[name] = reason
            continue
        values[name], order[name] = scores
    return Collected(values, order, left_out)


def check_names(names: Sequence[str] | None) -> None:
    """Refuses names of scores that are none, are unknown or come twice.

    Args:
        names (Sequence[str], optional): What was asked for; None for all.

    Raises:
        PruningError: With the names.
    """
    if names is None:
        return
    if isinstance(names, str) or not names:
        raise PruningError(
            f'scores={names!r}: expected a list of names, such as '
            "['l1', 'fpgm']; None takes all"
        )
    for name in names:
        SCORES[name]  # raises with all names
        if list(names).count(name) > 1:
            raise PruningError(
                f'scores={list(names)}: {name} comes twice. Leave it there '
                'once'
            )


def _scores(
    model: nn.Module,
    name: str,
    normalisation: str,
    calibration: Calibration | None,
) -> tuple[Tensor, Tensor]:
    """Values of a score as they are and normalised, each ``[channels]``."""
    pruner: Any = model.pruner
    # Of one layer as the score says it; of a group the mean over its layers.
    plain = Scorer(name, 'none')
    score = plain.score
    plain.check_groups(pruner.groups)
    harm = _look(model, plain, calibration, name)
    values = plain.compute(pruner.groups, harm)
    # The same score, which has seen its batches.
    order = Scorer(score, normalisation).compute(pruner.groups, harm)
    if not values.isfinite().all():
        raise PruningError(
            'there are scores that are not finite: give weights of a network '
            'whose training has not diverged'
        )
    return values.cpu().double(), order.cpu()


def _look(
    model: nn.Module,
    scorer: Scorer,
    calibration: Calibration | None,
    name: str,
) -> Tensor | None:
    """Shows a score its batches; returns the harm if it asks for that."""
    score = scorer.score
    if not (score.batches or score.uses_gradient):
        return None
    if calibration is None:
        raise PruningError(
            'it looks at calibration batches, and none were given: say how '
            'many with batches (--batches N)'
        )
    count, pruner = calibration.count, model.pruner
    assert isinstance(pruner, Pruner)
    harm = None
    if score.uses_gradient:
        losses = calibration.batches(count, False)
        harm = _harm(model, pruner.gate, losses, name)
    if score.batches:
        # As many as the user gives, in place of those it would ask for.
        score.batches = count
        shown = calibration.batches(count, score.outputs)
        scorer.prepare(model, pruner.groups, shown)
    return harm


def _harm(
    model: nn.Module,
    gate: Tensor,
    runs: Iterable[Callable[[], Any]],
    name: str,
) -> Tensor:
    """Mean over batches of the squared gradient of the loss by the gate.

    In a phase it is a running mean over steps; here weights stand still.
    """
    total, count = torch.zeros_like(gate), 0
    with evaluating(model), _learning(gate), torch.enable_grad():
        for run in runs:
            loss = objective(run(), name)
            # p_i = dL / dm_i, [channels]; None if the loss depends on no gate.
            (p,) = torch.autograd.grad(loss, [gate], allow_unused=True)
            total += 0 if p is None else p.square()
            count += 1
    return total / max(count, 1)


@contextmanager
def _learning(gate: Tensor) -> Iterator[None]:
    former = gate.requires_grad
    gate.requires_grad_(True)
    try:
        yield
    finally:
        gate.requires_grad_(former)
