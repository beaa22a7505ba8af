# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where in a run its phase lies."""

from types import SimpleNamespace
from typing import Any

import pytest

from mmlapp.core import PruningError, StableEnd
from mmlapp.core.progress import Phase, Progress
from mmlapp.engine.training.phase_length import (
    BoundedLength,
    PhaseLength,
    check_end,
)


def run(at: int = 0, every: int = 1, last: int = 12) -> Any:
    return SimpleNamespace(
        iter=at,
        train_loop=None,
        max_iters=last,
        train_dataloader=range(4),
        optim_wrapper=SimpleNamespace(_accumulative_counts=every),
    )


def pruner(phase: Phase = Phase.DENSE, done: int = 0, steps: int = 0) -> Any:
    return SimpleNamespace(progress=Progress(phase, done, steps))


@pytest.mark.parametrize(
    ('length', 'every', 'iters', 'steps'),
    [
        ((2, None, 0), 1, 8, 8),
        ((0.5, None, 0), 1, 2, 2),
        ((0.01, None, 0), 1, 1, 1),
        ((2, 5, 0), 2, 5, 2),
        ((2, 1, 0), 3, 1, 1),
    ],
)
def test_iterations_and_steps(
    length: tuple[Any, ...], every: int, iters: int, steps: int
) -> None:
    phase = PhaseLength(*length)
    assert phase.iters(run(every=every)) == iters
    assert phase.steps(run(every=every)) == steps


@pytest.mark.parametrize(
    ('epochs', 'plain', 'bounded'),
    [(1.4, 6, 5), (1.65, 7, 6), (0.1, 1, 1), (1.75, 7, 7), (2 - 1e-9, 8, 8)],
)
def test_a_bounded_phase_is_not_rounded_up(
    epochs: float, plain: int, bounded: int
) -> None:
    assert PhaseLength(epochs, None, 0).iters(run()) == plain
    assert BoundedLength(epochs, None, 0).iters(run()) == bounded


def test_a_phase_begins_at_the_earliest_now() -> None:
    phase = PhaseLength(2, None, 3)
    assert phase.text(run(), pruner()) == 'in 8 iterations from iteration 3'
    text = phase.text(run(at=5, last=20), pruner())
    assert text == 'in 8 iterations from iteration 5'
    phase.check(run(at=4), pruner())
    with pytest.raises(PruningError, match=r'ends at iteration 13, but .* 12'):
        phase.check(run(at=5), pruner())


@pytest.mark.parametrize('every', [1, 2, 3])
def test_a_resumed_phase_ends_where_the_unbroken_one_did(every: int) -> None:
    phase, steps = PhaseLength(2, None, 0), 8 // every
    for at in range(1, steps * every):
        middle = pruner(Phase.PRUNING, at // every, steps)
        assert phase.end(run(at, every), middle) == steps * every


def test_the_length_of_the_checkpoint_counts() -> None:
    phase, middle = PhaseLength(1, None, 0), pruner(Phase.PRUNING, 3, 9)
    assert phase.text(run(at=3), middle) == (
        'resumed after step 3 of 9, which stay, though a phase would have 4 '
        'now: the number of batches or of accumulated ones is another'
    )
    with pytest.raises(PruningError, match=r'ends at iteration 9, but .* 8'):
        phase.check(run(at=3, last=8), middle)


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (('2', None, 0), "prune_epochs='2': expected a number above 0"),
        ((True, None, 0), 'prune_epochs=True'),
        ((float('nan'), None, 0), 'prune_epochs=nan'),
        ((None, None, 0), 'prune_epochs=None'),
        ((2, 1.5, 0), 'prune_iters=1.5: expected a whole number from 1'),
        ((2, '4', 0), "prune_iters='4'"),
        ((2, None, True), 'begin_iters=True'),
        ((2, None, -1), 'begin_iters=-1: expected a whole number from 0'),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(PruningError) as info:
        PhaseLength(*arguments)
    assert text in str(info.value)


def test_an_epoch_is_that_of_the_loader() -> None:
    """Four batches, in steps of the optimizer."""
    phase = PhaseLength(5, None, 0)
    for every, epoch in ((1, 4), (2, 2), (3, 1), (5, 1)):
        rule = phase.end_rule(run(every=every, last=99), check_end('stable'))
        assert rule == StableEnd(epoch)
    said = check_end(dict(type='stable', epoch=2, similarity=0.9))
    assert phase.end_rule(run(), said) == StableEnd(2, 0.9)
    assert check_end(StableEnd(2, 0.9)) == said
    assert phase.end_rule(run(), check_end(None)) is None


def test_a_phase_of_three_epochs_cannot_end_earlier() -> None:
    with pytest.raises(PruningError, match=r'4 steps: a phase of 12 steps c'):
        PhaseLength(3, None, 0).end_rule(run(), check_end('stable'))


@pytest.mark.parametrize(
    ('length', 'own', 'text'),
    [
        ((4, None, 0), pruner(), 'longer, or shorten prune_epochs=4$'),
        ((4, 16, 0), pruner(), 'longer, or shorten prune_iters=16$'),
        (
            (2, None, 6),
            pruner(),
            'longer, or shorten prune_epochs=2 or begin_iters=6$',
        ),
        (
            (2, None, 0),
            pruner(Phase.PRUNING, 1, 16),
            'longer, or shorten prune_epochs=2 in a new run$',
        ),
    ],
)
def test_a_phase_that_is_too_long_names_the_setting_that_counts(
    length: tuple[Any, ...], own: Any, text: str
) -> None:
    with pytest.raises(PruningError, match=text):
        PhaseLength(*length).check(run(), own)
