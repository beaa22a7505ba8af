# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""All thresholds are shifted alike until the cost meets its target."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from pruning_steps import task_loss

from mmlapp.core import attach
from mmlapp.core.methods.budget import Budget
from mmlapp.core.methods.lapp.constraint import common_shift
from mmlapp.core.segments import Segments

SIZES = torch.tensor([5, 3, 4])
GROUP = torch.arange(3).repeat_interleave(SIZES)
WHOLE = torch.full((3,), -torch.inf), torch.full((3,), torch.inf)


def cost(kept):
    """A chain of layers: products of neighbouring widths."""
    a, b, c = (part.sum() for part in kept.split(SIZES.tolist()))
    return 3 * a + a * b + b * c


def pruner_at(target, scores):
    return SimpleNamespace(
        scores=scores,
        group=GROUP,
        host_parts=Segments(SIZES.tolist()),
        targets=lambda: {'flops': target},
        budget=lambda target: Budget([(cost, target['flops'] * 42)]),
    )


def used(threshold, pruner):
    kept = pruner.scores > threshold[pruner.group]
    return float(cost(kept.double())) / 42


@pytest.mark.parametrize('target', [0.05, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize('start', [-9.0, 0.0, 9.0])
def test_no_other_shift_comes_nearer(target, start):
    """Against a fine grid of shifts, from wherever the search begins."""
    pruner = pruner_at(target, torch.randn(12))
    threshold = start + torch.randn(3)
    free = torch.tensor([True, True, True])
    found = common_shift(pruner, threshold, WHOLE, free)
    shift = found - threshold
    torch.testing.assert_close(shift, shift[:1].expand(3))
    grid = [
        abs(used(threshold + c, pruner) - target)
        for c in torch.arange(-16, 16, 0.02)
    ]
    assert abs(used(found, pruner) - target) <= min(grid) + 1e-6


@pytest.mark.parametrize(
    'free', list(itertools.product([True, False], repeat=3))
)
def test_only_free_thresholds_are_shifted(free):
    pruner, threshold = pruner_at(0.5, torch.randn(12)), torch.zeros(3) - 5
    found = common_shift(pruner, threshold, WHOLE, torch.tensor(free))
    assert (found != threshold).tolist() == list(free)


def test_bounds_hold_and_the_others_pay():
    pruner = pruner_at(0.3, torch.randn(12))
    high = torch.tensor([-5.0, 9.0, 9.0])
    found = common_shift(
        pruner, -torch.ones(3), (WHOLE[0], high), torch.ones(3).bool()
    )
    assert found[0] == -5
    assert used(found, pruner) == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize('steps', [10, 12, 20, 60])
@pytest.mark.parametrize('target', [0.5, 0.3])
def test_a_phase_follows_its_schedule_at_any_length(
    net, conv, image, steps, target
):
    """Where one channel of each group is 0.03 of the cost at most."""
    model = net(
        lambda m, x: m.d(m.c(m.b(m.a(x).relu()).relu()).relu()),
        a=conv(3, 32),
        b=conv(32, 48),
        c=conv(48, 40),
        d=conv(40, 5),
    )
    pruner = attach(model, image)
    pruner.begin({'flops': target}, steps)
    for _ in range(steps):
        task_loss(model, image).backward()
        pruner.step()
        wanted = pruner.targets()['flops']
        assert pruner.ratios()['flops'] == pytest.approx(wanted, abs=0.03)
