# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Phases that end once the kept channels no longer change."""

import random
from fractions import Fraction

import pytest
import torch
import torch.distributed as dist
from pruning_steps import kept_by_group, train

from mmlapp.core import Method, Phase, PruningError, StableEnd, attach
from mmlapp.core.pruner.stability import EPOCHS, NEAR, Stability, jaccard

# Of the groups of the shared network.
SIZES = [8, 12, 16]


class Scripted(Method):
    """Keeps what it is told, step by step; the last mask stays."""

    def __init__(self, masks):
        super().__init__()
        self.masks = masks

    def setup(self, pruner):
        pass

    def step(self, pruner):
        done = min(pruner.progress.done, len(self.masks))
        return self.masks[done - 1].float()

    def ranking(self, pruner):
        return pruner.gate


def keeping(*counts, shift=0):
    """The first channels of every group, or those after a shift."""
    return torch.cat(
        [
            (torch.arange(size) >= shift) & (torch.arange(size) < n + shift)
            for size, n in zip(SIZES, counts, strict=True)
        ]
    )


def ended_at(model, images, masks, steps=12, target=0.5, **end):
    """The step at which a phase with these masks ends."""
    pruner = attach(model, images, method=Scripted(masks))
    pruner.begin({'flops': target}, steps, end=StableEnd(**end))
    while pruner.phase == Phase.PRUNING:
        pruner.step()
    assert pruner.ratios()['flops'] <= target
    return pruner.progress.done


def test_similarity_is_the_mean_jaccard_index_of_groups():
    """Against sets of Python."""
    dice = random.Random(0)
    for _ in range(50):
        sizes = [dice.randint(1, 6) for _ in range(3)]
        pair = [[dice.random() < 0.5 for _ in range(sum(sizes))] for _ in 'ab']
        start, index = 0, Fraction(0)
        for size in sizes:
            a, b = (
                {i for i in range(start, start + size) if mask[i]}
                for mask in pair
            )
            index += Fraction(len(a & b), len(a | b)) if a | b else 1
            start += size
        found = jaccard(*map(torch.tensor, pair), sizes)
        assert found == pytest.approx(float(index / 3), abs=1e-12)


A, B = keeping(4, 6, 8), keeping(4, 6, 8, shift=1)
WIDE = keeping(8, 12, 16)


@pytest.mark.parametrize(
    ('masks', 'end'),
    [
        # Equal at steps 2, 4 and 6.
        ([A], 6),
        ([WIDE, A], 6),
        # The first epoch that counts ends at step 4.
        ([WIDE, WIDE, A], 8),
        # What changes within an epoch and comes back has not changed.
        ([A, A, B, A], 6),
        # As two epochs ago, but not as one ago.
        ([A, A, B, B, A], 10),
        ([A, A, B, B, A, A, B, B, A, A, B, B], 12),
    ],
)
def test_a_phase_ends_after_two_epochs_without_a_change(
    model, images, masks, end
):
    assert ended_at(model, images, masks, epoch=2) == end


def test_less_similarity_lets_channels_change(model, images):
    """One of 4, 6 and 8 goes and another one comes: 3/5, 5/7 and 7/9."""
    similar = (3 / 5 + 5 / 7 + 7 / 9) / 3
    masks = [A, B] * 6
    assert ended_at(model, images, masks, epoch=1) == 12
    del model.pruner
    known = Stability.begin(StableEnd(1, similar - 1e-9), 36)
    for mask in masks[: EPOCHS + 1]:
        assert not known.is_stable(SIZES)
        assert known.similarity(SIZES) is None
        known = known.noted(mask)
    assert known.similarity(SIZES) == pytest.approx(similar, abs=1e-12)
    assert known.is_stable(SIZES)


def test_channels_that_stay_do_not_end_what_misses_its_target(model, images):
    """Dense networks do not change either."""
    assert ended_at(model, images, [WIDE], epoch=2) == 12


def test_the_target_is_met_up_to_a_twentieth(make, images):
    ratio = attach(make(), images).budget({'flops': 1.0}).used(A.double())
    for share, end in ((NEAR - 1e-6, 6), (NEAR + 1e-6, 12)):
        target = ratio / share
        assert ended_at(make(), images, [A], target=target, epoch=2) == end


@pytest.mark.parametrize('at', [5, 23, 24, 25])
def test_a_resumed_phase_ends_at_the_same_step(make, model, images, at):
    for network in (model, fresh := make()):
        attach(network, images, method='uniform')
    pruner = model.pruner
    pruner.begin({'flops': 0.5}, 30, end=StableEnd(epoch=1))
    train(model, images, at)
    fresh.load_state_dict(model.state_dict())
    assert fresh.pruner.stability.end == pruner.stability.end
    for network in (model, fresh):
        train(network, images, 30 - at)
    assert fresh.pruner.progress == pruner.progress
    assert pruner.progress.done < pruner.progress.steps
    for name, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


@pytest.mark.parametrize('method', ['uniform', 'random', 'ranking', 'lapp'])
def test_the_end_is_the_first_step_that_allows_it(make, images, method):
    """Two ways: by the pruner, and from the masks of the whole phase."""
    sizes, networks = SIZES, [make() for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    whole, early = (attach(n, images, method=method) for n in networks)
    whole.begin({'flops': 0.5}, 30)
    masks, used = [], []
    for _ in range(29):
        train(networks[0], images, 1)
        masks.append(whole.mask.clone())
        used.append(whole.ratios()['flops'] / 0.5)
    expected = 30
    for step in range(2, 29):
        former = [jaccard(masks[step], masks[step - i], sizes) for i in (1, 2)]
        if min(former) >= 0.95 and used[step] <= NEAR:
            expected = step + 1
            break
    early.begin(
        {'flops': 0.5}, 30, end=dict(type='stable', epoch=1, similarity=0.95)
    )
    train(networks[1], images, 30)
    assert early.progress.done == expected < 30
    assert early.phase == Phase.FINISHED


def test_no_process_ends_a_phase_alone(model, images, monkeypatch):
    """The other one of two never agrees."""
    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(dist, 'get_world_size', lambda: 2)
    monkeypatch.setattr(dist, 'all_reduce', lambda tensor: None)
    assert ended_at(model, images, [A], epoch=2) == 12


@pytest.mark.parametrize(
    ('end', 'text'),
    [
        (dict(type='stable', epoch=0), 'end epoch=0: expected a whole'),
        (dict(type='stable', epoch=2.0), r'end epoch=2\.0: expected a whole'),
        (
            dict(type='stable', epoch=1, similarity=0),
            'end similarity=0: expected a number above 0 to 1',
        ),
        (
            dict(type='stable', epoch=1, similarity=1.1),
            r'similarity=1\.1: exp',
        ),
        (dict(type='settled', epoch=1), "end='settled' is unknown"),
        ('stable', "end='stable': missing a required argument: 'epoch'"),
        (dict(epoch=1), 'says no type'),
        (StableEnd(4), 'epochs of 4 steps: a phase of 12 steps cannot end ea'),
        (0.999, r'end=0\.999: expected a name'),
    ],
)
def test_ends_that_cannot_be(pruner, end, text):
    with pytest.raises(PruningError, match=text):
        pruner.begin({'flops': 0.5}, 12, end=end)
    assert pruner.phase == Phase.DENSE
    assert pruner.stability is None


def test_nothing_is_left_of_it_after_the_phase(model, images, pruner):
    """Nor is there anything where nobody asked for it."""
    plain = set(pruner.state_dict())
    pruner.begin({'flops': 0.5}, 4, end=StableEnd(1))
    assert set(pruner.state_dict()) - plain == {'stable_end', 'kept_sets'}
    pruner.step()
    pruner.reset()
    assert set(pruner.state_dict()) == plain
    pruner.begin({'flops': 0.5}, 4, end=StableEnd(1))
    train(model, images, 4)
    assert pruner.phase == Phase.FINISHED
    assert set(pruner.state_dict()) == plain
    assert sum(kept_by_group(pruner)) < 36


def test_averaged_copies_know_as_much(make, images, pruner):
    """Both are saved, and MMEngine exchanges their entries by name."""
    copied = attach(make(), images)
    pruner.begin({'flops': 0.5}, 8, end=StableEnd(1))
    pruner.step()
    copied.take_over(pruner)
    for name, value in pruner.state_dict().items():
        assert torch.equal(copied.state_dict()[name], value), name
