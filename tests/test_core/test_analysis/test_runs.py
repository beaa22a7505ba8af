# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core.analysis.checks import Check
from mmlapp.core.analysis.counts import Count
from mmlapp.core.analysis.runs import Runs, all_finite
from mmlapp.core.analysis.stages import EXACT
from mmlapp.core.compare import agree
from mmlapp.core.gathering import Gathering
from mmlapp.core.trace import trace
from mmlapp.core.units import Channels, Request

CHECK = Check(Count.SOME)


@pytest.fixture
def subject(conv, image):
    """A network of two groups, and how it runs."""
    model = nn.Sequential(conv(3, 8), conv(8, 6), conv(6, 4)).double().eval()

    def forward():
        return model(image)

    record = trace(model, forward)
    runs = Runs(Request(model, forward, record, (), ()), Channels())
    return runs, Gathering(record).groups()


def test_a_mask_and_a_slice_remove_the_same(subject):
    runs, groups = subject
    before = {n: p.clone() for n, p in runs.model.state_dict().items()}
    removal = runs.removal(groups, groups.prunable, Count.SOME)
    masked, _ = runs.masked(removal, CHECK, EXACT)
    narrow, _ = runs.narrowed(removal, CHECK, EXACT)
    whole, _ = runs.outputs(CHECK, EXACT)
    assert agree(masked, narrow)
    assert not agree(masked, whole)
    # All is put back.
    assert runs.model[0].out_channels == 8
    after = runs.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_is_removed_is_made_once(subject):
    runs, groups = subject
    first = runs.removal(groups, groups.prunable, Count.ONE)
    assert runs.removal(groups, groups.prunable, Count.ONE) is first
    assert runs.removal(groups, groups.prunable[:1], Count.ONE) is not first
    assert first.mask.sum() == len(groups.prunable)
    # No norm: one channel alone hides nothing more.
    assert runs.removal(groups, groups.prunable, Count.ALONE) is first


def test_a_shake_is_as_small_as_rounding(subject):
    runs, groups = subject
    removal = runs.removal(groups, groups.prunable, Count.SOME)
    still, shaken = (
        runs.masked(removal, CHECK, EXACT, shake=shake)[0] for shake in (0, 1)
    )
    error = (still[0] - shaken[0]).abs().max() / still[0].abs().max()
    assert 0 < error < 1e-13


def test_more_is_done_while_it_is_narrow(subject):
    runs, groups = subject
    removal = runs.removal(groups, groups.prunable, Count.SOME)
    widths = []
    runs.narrowed(
        removal,
        CHECK,
        EXACT,
        then=lambda found, recast: widths.append(runs.model[0].out_channels),
    )
    assert widths == [removal.plan.slices['0.weight'][0].count]


def test_the_whole_network_runs_once(subject):
    runs, _ = subject
    calls = []
    runs.model.register_forward_hook(lambda *_: calls.append(1))
    assert runs.whole(CHECK, EXACT) == (True, True)
    assert runs.whole(CHECK, EXACT) == (True, True)
    assert len(calls) == 1


def test_what_no_number_is():
    one, odd = torch.ones(2), torch.tensor([1, float('nan')])
    assert all_finite([one, torch.empty(2, device='meta')])
    assert not all_finite([one, odd])
