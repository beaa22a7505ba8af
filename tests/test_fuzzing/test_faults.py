# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The fuzzer finds what it looks for: faults that are put there."""

from dataclasses import replace
from random import Random

import pytest
import torch
from fuzzing.checks import CHECKS
from fuzzing.faults import find_fault, smallest
from fuzzing.networks import BLOCKS, NAMES, Spec, compose, draw
from fuzzing.writer import Writer

from mmlapp.core import Pruner
from mmlapp.core.cost import flops
from mmlapp.core.methods.added_loss import AddedLoss

SPEC = Spec(0, 'map', ((0, 'chain'), (1, 'residual'), (2, 'dropout')), 'flat')


PLAN = Pruner.plan


def other_channels(pruner):
    """A plan of as many channels as live, but not of the same ones."""
    right = pruner.mask
    parts = pruner.by_group(right).values()
    pruner.set_mask(torch.cat([part.flip(0) for part in parts]))
    plan = PLAN(pruner)
    pruner.set_mask(right)
    return plan


def everything(*args, **kwargs):
    return torch.ones(len(args[1]), dtype=torch.bool)


PLANTED = {
    'narrows': ('mmlapp.core.Pruner.plan', other_channels),
    'trains': (
        'mmlapp.core.narrowing.narrow.move_optimizer_state',
        lambda *args: None,
    ),
    'copies': (
        'mmlapp.core.plan.plan.ChannelPlan.__eq__',
        lambda self, other: False,
    ),
    'meets budget': ('mmlapp.core.pruner.decisions.snap', everything),
}


@pytest.mark.parametrize('check', PLANTED)
def test_planted_faults_are_found(check, monkeypatch):
    assert find_fault(compose(SPEC), checks=[check]) is None
    monkeypatch.setattr(*PLANTED[check])
    fault = find_fault(compose(SPEC), checks=[check])
    assert fault is not None
    assert fault.check == check


def test_wrong_counts_are_found(monkeypatch):
    monkeypatch.setitem(flops.HANDLES, 'convolution', lambda call: 1)
    assert 'flops' in find_fault(compose(SPEC), checks=['narrows']).error


def test_blocks_that_are_not_to_blame_are_left_out(monkeypatch):
    monkeypatch.setattr(*PLANTED['narrows'])
    fault = smallest(find_fault(compose(SPEC), checks=['narrows']))
    assert len(fault.network.spec.blocks) < len(SPEC.blocks)
    assert fault.network.source in str(fault)


def test_equal_seeds_give_equal_networks():
    networks = [compose(draw(7)) for _ in range(2)]
    assert networks[0].source == networks[1].source
    weights = [network.build().state_dict() for network in networks]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])


def test_every_block_is_drawn():
    found = set()
    for seed in range(6000, 8000):
        spec = draw(seed)
        found.update(name for _, name in spec.blocks)
    assert found == set(BLOCKS)


def test_later_blocks_change_no_earlier_network(monkeypatch):
    before = [draw(seed) for seed in range(50)]
    later = [name for name, block in BLOCKS.items() if block.since]
    assert later
    for name in later:
        monkeypatch.delitem(BLOCKS, name)
    assert [draw(seed) for seed in range(50)] == before


def test_every_check_has_its_turn():
    assert set(PLANTED) <= set(CHECKS)


@pytest.mark.parametrize('name', ['over_channels', 'along_space'])
def test_a_single_value_makes_no_nan(name):
    """Neither one channel nor one position; else any network is at fault."""
    seen = set()
    for seed in range(60):
        writer = Writer(Random(seed))
        writer.c, writer.size = 1, (1, 1)
        BLOCKS[name].write(writer)
        seen.add(line := ''.join(writer.lines))
        names = {**NAMES, 'x': torch.tensor([[[[0.5]]], [[[-2.0]]]])}
        if 'topk(2)' not in line:  # of one position there are no two
            exec(line, names)
        assert names['x'].isfinite().all(), line
    assert any('.std(' in line for line in seen)


FROZEN = Spec(2726, 'map', ((0, 'frozen_parameters'),), 'pooled')


@pytest.mark.filterwarnings('ignore:p1')
def test_what_a_method_rightly_refuses_is_no_fault():
    assert find_fault(compose(FROZEN), checks=['meets budget']) is None


def test_what_a_method_wrongly_refuses_is_one(monkeypatch):
    """As if it did not look at what learns."""
    begin = AddedLoss.begin
    monkeypatch.setattr(
        AddedLoss, 'begin', lambda self, weights: begin(self, [])
    )
    spec = replace(FROZEN, blocks=((0, 'without_norm'),))
    fault = find_fault(compose(spec), checks=['meets budget'])
    assert 'requires a gradient' in fault.error


# Constructs of users' networks that the checks themselves once tripped over.
AWKWARD = {
    'booleans among buffers': ((0, 'masked_channels'),),
    'views of parameters': ((0, 'learned_queries'),),
}


@pytest.mark.parametrize('name', AWKWARD)
def test_checks_take_what_networks_hold(name):
    spec = Spec(3, 'tokens', AWKWARD[name], 'layer')
    assert find_fault(compose(spec), checks=['narrows', 'trains']) is None
