# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Condemned channels shrink, whatever the method is."""

import math
import warnings
from fractions import Fraction

import pytest
import torch
from pruning_steps import task_loss, train

from mmlapp.core import (
    Method,
    Phase,
    PruningError,
    PruningWarning,
    StableEnd,
    attach,
    narrow,
)
from mmlapp.core.methods.channel_costs import channel_costs
from mmlapp.core.progress import Progress
from mmlapp.core.pruner.shrinking import Growing, Linear, shrunk
from mmlapp.core.pruner.stability import NEAR

METHODS = (
    'lapp',
    dict(type='lapp', update='gradient'),
    'uniform',
    'random',
    'ranking',
)


@pytest.mark.parametrize('steps', [1, 2, 3, 7, 13, 26, 64, 999])
def test_a_gate_falls_in_equal_steps(steps):
    """Against fractions, and to zero itself."""
    gate, decided = torch.ones(3), torch.tensor([0.0, 1.0, 0.0])
    for step in range(1, steps + 3):
        gate = shrunk(gate, decided, Linear(steps), Progress())
        left = max(1 - Fraction(step, steps), Fraction(0))
        assert gate.tolist() == pytest.approx([float(left), 1, float(left)])
        assert gate[1] == 1
        assert (gate[0] == 0) == (step >= steps)
        assert gate[0] < 1


@pytest.mark.parametrize(('gone', 'first'), [(0.5, 1), (0.5, 7), (1.0, 3)])
def test_a_gate_falls_by_a_decay_that_grows(gone, first):
    """The product of the factors of all steps in closed form."""
    gate, decided = torch.ones(2), torch.ones(2)
    for step in range(1, 41):
        decided[0] = float(step < first)
        gate = shrunk(gate, decided, Growing(gone), Progress(1, step, 40))
        summed = sum(range(first, step + 1))
        left = math.exp(-2 * math.log(100) * summed / (40 * gone) ** 2)
        expected = [left if left >= 0.01 else 0, 1]
        assert gate.tolist() == pytest.approx(expected)


@pytest.mark.parametrize('method', ['lapp', 'one_cycle'])
@pytest.mark.parametrize(
    'shrink', [dict(type='growing', gone=0.3), dict(type='linear', steps=3)]
)
def test_every_way_goes_with_every_method(model, images, method, shrink):
    """Gates of all steps by the formula, from what the method keeps."""
    pruner = attach(model, images, method=method, shrink=shrink)
    pruner.begin({'flops': 0.5}, 30)
    gate, between = torch.ones(36), 0
    for step in range(1, 30):
        train(model, images, 1)
        if shrink['type'] == 'linear':
            left = (gate - 1 / 3).clamp_min(0)
        else:
            left = gate * math.exp(-2 * math.log(100) * step / 9**2)
        left = torch.where(left < 0.01, 0, left)
        gate = torch.where(pruner.mask, 1.0, left)
        torch.testing.assert_close(pruner.gate.detach(), gate)
        between += int(((gate > 0) & (gate < 1)).sum())
    assert between > 5
    assert 0.45 < pruner.ratios()['flops'] <= 0.55


def test_a_method_has_a_way_of_its_own_unless_another_is_said(make, images):
    """Weights rest: what goes first is at a half, at 0.99, or gone."""
    found = {}
    for shrink in (None, 'growing', 2, 1):
        pruner = attach(make(), images, method='one_cycle', shrink=shrink)
        pruner.begin({'flops': 0.5}, 40)
        pruner.step()
        (left,) = set(pruner.gate[~pruner.mask].tolist())
        found[shrink] = round(left, 2)
    assert found == {None: 0.98, 'growing': 0.98, 2: 0.5, 1: 0}


def test_what_comes_back_is_whole_at_once():
    gate = torch.tensor([0.25, 0.0, 1.0])
    for how in (Linear(4), Growing()):
        whole = shrunk(gate, torch.ones(3), how, Progress(done=1, steps=9))
        assert whole.tolist() == [1, 1, 1]


@pytest.mark.parametrize('method', METHODS)
def test_gates_fall_as_long_as_they_are_condemned(model, images, method):
    pruner = attach(model, images, method=method, shrink=5)
    pruner.begin({'flops': 0.5}, 30)
    before, seen = torch.ones(36), set()
    for _ in range(29):
        train(model, images, 1)
        gate, kept = pruner.gate.detach().clone(), pruner.mask
        assert torch.equal(kept, gate == 1)
        falls = before - gate
        expected = torch.where(before > 0.1, 0.2, 0.0)
        torch.testing.assert_close(falls[~kept], expected[~kept])
        seen |= set((gate * 5).round().int().tolist())
        before = gate
    assert seen == {0, 1, 2, 3, 4, 5}
    train(model, images, 1)
    assert pruner.phase == Phase.FINISHED
    assert set(pruner.gate.tolist()) == {0, 1}
    assert 0.45 < pruner.ratios()['flops'] <= 0.5


def test_what_a_channel_costs_beside_those_that_live(model, images):
    """LAPP asks for d log F / dm, F = 3a + ab + bc + 5c of living channels."""
    pruner = attach(model, images, shrink=4)
    pruner.begin({'flops': 0.5}, 40)
    train(model, images, 30)
    assert any(0 < value < 1 for value in pruner.gate.tolist())
    a, b, c = (int(part.sum()) for part in pruner.mask.split(pruner.sizes))
    flops = 3 * a + a * b + b * c + 5 * c
    expected = torch.tensor([3 + b, a + c, b + 5]) / flops
    found = channel_costs(pruner)
    torch.testing.assert_close(found, expected[pruner.group])


@pytest.mark.parametrize('method', ['uniform', 'random', 'ranking', 'lapp'])
def test_who_decides_does_not_see_it(make, images, method):
    """Masks and costs are those of gates that fall at once.

    Weights stay the same, and LAPP's task has no say.
    """
    if method == 'lapp':
        method = dict(type='lapp', update=dict(type='balance', task_weight=0))
    found, first = [], make().state_dict()
    for steps in (1, 4):
        network = make()
        network.load_state_dict(first)
        pruner = attach(network, images, method=method, shrink=steps)
        pruner.begin({'flops': 0.5}, 20)
        rows = []
        for _ in range(20):
            task_loss(network, images).backward()
            pruner.step()
            rows.append((pruner.mask.tolist(), pruner.ratios()))
        found.append(rows)
    assert found[0] == found[1]
    assert any(not all(mask) for mask, _ in found[0])


def test_the_network_runs_with_the_gate(net, conv, image):
    """A channel at 3/4 emits three quarters of its value, bias and all."""
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 4), b=conv(4, 2))
    pruner = attach(model, image, method='uniform', shrink=4)
    pruner.begin({'flops': 0.75}, 40)
    while pruner.mask.all():
        pruner.step()
    (gone,) = (~pruner.mask).nonzero()[:, 0].tolist()
    values = []
    model.a.register_forward_hook(lambda *args: values.append(args[-1]))
    with torch.no_grad():
        model(image)
    weight, bias = (dict(model.named_parameters())[f'a.{n}'] for n in NAMES)
    whole = torch.nn.functional.conv2d(image, weight, bias, padding=1)
    factor = torch.ones(4, dtype=image.dtype)
    factor[gone] = 0.75
    torch.testing.assert_close(values[0], whole * factor[:, None, None])


NAMES = 'weight', 'bias'


def test_no_phase_ends_early_in_the_middle_of_it(make, images):
    """Two ways: by the pruner, and from the gates of the whole phase."""
    first, ends = make().state_dict(), []
    for end in (None, StableEnd(epoch=1, similarity=0.01)):
        network = make()
        network.load_state_dict(first)
        pruner = attach(network, images, method='uniform', shrink=4)
        pruner.begin({'flops': 0.5}, 40, end=end)
        near = []
        while pruner.phase == Phase.PRUNING:
            pruner.step()
            if pruner.ratios()['flops'] <= 0.5 * NEAR:
                shrinks = ((pruner.gate > 0) & (pruner.gate < 1)).any()
                near.append((pruner.progress.done, bool(shrinks)))
        ends.append(near)
    # As soon as the target is near, channels shrink that went last.
    assert ends[0][0][1]
    expected = next(step for step, shrinks in ends[0] if not shrinks)
    assert ends[1][-1] == (expected, False)
    assert expected < 40


def test_what_is_narrowed_computes_the_same(model, images):
    pruner = attach(model, images, method='uniform', shrink=3)
    pruner.begin({'flops': 0.5}, 20)
    train(model, images, 20)
    model.eval()
    with torch.no_grad():
        expected = model(images)
        narrow(model, pruner.plan())
        torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    ('method', 'at'), list(zip(METHODS, (3, 9, 14, 9, 5), strict=True))
)
def test_a_resumed_phase_shrinks_on(make, model, images, method, at):
    for network in (model, fresh := make()):
        attach(network, images, method=method, shrink=6)
    model.pruner.begin({'flops': 0.4}, 30)
    train(model, images, at)
    assert any(0 < value < 1 for value in model.pruner.gate.tolist())
    fresh.load_state_dict(model.state_dict())
    for network in (model, fresh):
        train(network, images, 30 - at)
    assert fresh.pruner.phase == Phase.FINISHED
    for name, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


class Soft(Method):
    """Sets gates between 0 and 1 itself."""

    def setup(self, pruner):
        pass

    def step(self, pruner):
        return torch.full_like(pruner.gate, 0.5)

    def ranking(self, pruner):
        return pruner.scores


def test_a_method_with_gates_of_its_own(make, images):
    pruner = attach(make(), images, method=Soft(), shrink=2)
    pruner.begin({'flops': 0.5}, 20)
    with pytest.raises(PruningError, match='shrink=2: the method sets'):
        pruner.step()
    assert pruner.progress.done == 0
    assert (pruner.gate == 1).all()
    pruner = attach(make(), images, method=Soft())
    pruner.begin({'flops': 0.5}, 20)
    pruner.step()
    assert pruner.ratios()['flops'] < 0.5


@pytest.mark.parametrize(
    ('shrink', 'text'),
    [
        (0, 'shrink=0: expected a whole number from 1'),
        (-1, 'shrink=-1: expected a whole'),
        (2.0, r'shrink=2\.0: expected a whole'),
        (True, 'shrink=True: expected a whole'),
        ('3', "shrink='3' is unknown"),
        (dict(type='linear', steps=0), 'shrink=0: expected a whole'),
        (dict(type='growing', gone=0), 'growing gone=0: expected a number ab'),
        (dict(type='growing', gone=1.5), r'growing gone=1\.5: expected'),
        (dict(gone=0.5), "shrink={'gone': 0.5} says no type"),
    ],
)
def test_what_is_no_way_to_shrink(model, images, shrink, text):
    with pytest.raises(PruningError, match=text):
        attach(model, images, shrink=shrink)
    assert not hasattr(model, 'pruner')


@pytest.mark.parametrize(
    ('shrink', 'steps', 'method', 'warned'),
    [
        (4, 20, 'lapp', False),
        (5, 20, 'lapp', True),
        (1, 1, 'lapp', False),
        (2, 1, 'lapp', True),
        # 0.8^2 + 0.6^2 = 1
        (dict(type='growing', gone=0.59), 100, 'lapp', False),
        (dict(type='growing', gone=0.61), 100, 'lapp', True),
        # Its target is the whole one from the first step on.
        (20, 20, 'one_cycle', False),
        (21, 20, 'one_cycle', True),
        (dict(type='growing', gone=1.0), 20, 'one_cycle', False),
    ],
)
def test_a_phase_that_ends_too_early_for_it(
    model, images, shrink, steps, method, warned
):
    pruner = attach(model, images, method=method, shrink=shrink)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        pruner.begin({'flops': 0.5}, steps)
    texts = [str(w.message) for w in found if w.category is PruningWarning]
    said = [t for t in texts if f'shrink={shrink!r}: only' in t]
    assert len(said) == warned
