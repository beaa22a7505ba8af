# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch import nn

from mmlapp.engine.benchmark import rows as module
from mmlapp.engine.benchmark.rows import Candidate, Inputs, bench
from mmlapp.engine.latency.backends import network_run
from mmlapp.engine.latency.setting import Setting


class Clock:
    """Seconds that networks take, by their name."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        return self.now


def build(width):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 5),
    ).eval()


@pytest.fixture
def dense():
    return build(8)


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return Inputs(torch.rand(2, 3, 4, 4), torch.rand(6, 3, 4, 4))


@pytest.fixture
def measured(monkeypatch):
    """Runs networks for real, on a clock that says how long they took."""

    def run(
        candidates, inputs, seconds, backends=('torch',), fail=(), judge=None
    ):
        clock = Clock(seconds)
        names = {id(c.network): c.name for c in candidates}

        def timed(network, images, setting):
            name = names[id(network)]
            if (name, setting.backend) in fail:
                raise RuntimeError('the compiler\nis missing')
            inner = network_run(network, images, Setting())
            turn = iter(range(10**6))

            def go():
                times = clock.seconds[name]
                clock.now += times[next(turn) % len(times)]
                return inner()

            return go

        monkeypatch.setattr(module, 'network_run', timed)
        settings = [Setting(name) for name in backends]
        return bench(
            candidates, inputs, settings, rounds=20, clock=clock, judge=judge
        )

    return run


def test_numbers_in_closed_form(dense, inputs, measured):
    slim = build(4)
    found = measured(
        [Candidate('dense', dense), Candidate('slim', slim)],
        inputs,
        {'dense': [0.4], 'slim': [0.25]},
    )
    assert [(r.name, r.backend, r.status) for r in found] == [
        ('dense', 'torch', 'ok'),
        ('slim', 'torch', 'ok'),
    ]
    one, two = found
    # 16 positions of 27 weights per channel, then 5 classes.
    assert (one.macs, two.macs) == (8 * 16 * 27 + 40, 4 * 16 * 27 + 20)
    assert two.share == 0.5
    assert one.parameters == 8 * 27 + 8 + 40 + 5
    assert one.megabytes == pytest.approx(4e-6 * one.parameters)
    assert (one.median, two.median) == pytest.approx((0.4, 0.25))
    assert two.images_per_second == pytest.approx(2 / 0.25)
    assert (one.speed_up, one.factor) == pytest.approx((1, 1))
    assert (two.speed_up, two.factor) == pytest.approx((1.6, 0.8))
    assert one.error == 0
    assert one.agreement == 1


def test_megabytes_are_those_of_a_file(inputs):
    """A norm adds scale, shift, two statistics and an int64 that counts."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8))
    pair = [Candidate('dense', model.eval())]
    (row,) = bench(pair, inputs, [Setting()], rounds=1)
    assert row.parameters == 24 + 16
    assert row.megabytes == pytest.approx((4 * (24 + 32) + 8) / 1e6)


def test_each_backend_has_its_own_dense_network(dense, inputs, measured):
    candidates = [
        Candidate('dense', dense),
        Candidate('masked', build(8), 'dense', ['torch']),
        Candidate('slim', build(4)),
    ]
    found = measured(
        candidates,
        inputs,
        {'dense': [0.4], 'masked': [0.5], 'slim': [0.2]},
        ('torch', 'compile'),
    )
    assert [(r.backend, r.name) for r in found] == [
        ('torch', 'dense'),
        ('torch', 'masked'),
        ('torch', 'slim'),
        ('compile', 'dense'),
        ('compile', 'slim'),
    ]
    assert found[1].error == 0


def test_outputs_are_compared_with_those_that_are_right(
    dense, inputs, measured
):
    """A network with another bias at one class."""
    other = build(8)
    with torch.no_grad():
        other[3].bias[2] += 100
    found = measured(
        [Candidate('dense', dense), Candidate('slim', other, 'dense')],
        inputs,
        {'dense': [1.0], 'slim': [1.0]},
    )
    assert found[1].error > 1
    classes = dense(inputs.real).argmax(1)
    expected = float((classes == 2).double().mean())
    assert found[1].agreement == pytest.approx(expected)


def test_real_images_alone_tell_classes(dense, inputs, measured):
    without = Inputs(inputs.batch, inputs.real[:0])
    (found,) = measured([Candidate('dense', dense)], without, {'dense': [1]})
    assert found.agreement is None
    maps = nn.Conv2d(3, 4, 1)
    (found,) = measured([Candidate('maps', maps)], inputs, {'maps': [1]})
    assert found.agreement is None


def test_what_is_noisy_makes_no_claim(dense, inputs, measured):
    candidates = [Candidate('dense', dense), Candidate('slim', build(4))]
    noise = {'dense': [0.4], 'slim': [0.2, 0.2, 0.2, 0.9]}
    one, two = measured(candidates, inputs, noise)
    assert one.speed_up == 1
    assert two.noisy
    assert (two.speed_up, two.factor) == (None, None)
    assert two.median == pytest.approx(0.2)
    noise = {'dense': [0.4, 0.4, 0.4, 2.0], 'slim': [0.2]}
    one, two = measured(candidates, inputs, noise)
    assert not two.noisy
    assert two.speed_up is None


def test_a_backend_that_fails_does_not_stop_the_others(
    dense, inputs, measured
):
    candidates = [Candidate('dense', dense), Candidate('slim', build(4))]
    found = measured(
        candidates,
        inputs,
        {'dense': [0.4], 'slim': [0.2]},
        ('compile', 'openvino'),
        fail=[('slim', 'compile'), ('dense', 'openvino')],
    )
    by_key = {(r.name, r.backend): r for r in found}
    failed = by_key['slim', 'compile']
    assert failed.status == 'RuntimeError: the compiler is missing'
    assert failed.median is None
    assert by_key['dense', 'compile'].median == pytest.approx(0.4)
    assert by_key['slim', 'openvino'].median == pytest.approx(0.2)
    assert by_key['slim', 'openvino'].speed_up is None


def test_all_that_fails(dense, inputs, measured, monkeypatch):
    """The reference in eager mode still runs."""
    found = measured(
        [Candidate('dense', dense)],
        inputs,
        {'dense': [1]},
        ('compile',),
        fail=[('dense', 'compile')],
    )
    assert [row.median for row in found] == [None]


def test_real_times(dense, inputs):
    (found,) = bench([Candidate('dense', dense)], inputs, [Setting()], 2)
    assert found.median > 0
    assert found.speed_up in (1, None)


class Two(nn.Module):
    """A network of two outputs, the second one times a factor."""

    def __init__(self, inner, factor):
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x):
        y = self.inner(x)
        return y, self.factor * y


def test_an_output_that_is_no_number_is_told(dense, inputs):
    right, wrong = Two(dense, 1.0), Two(dense, math.nan)
    pair = [Candidate('dense', right), Candidate('slim', wrong, like='dense')]
    _, row = bench(pair, inputs, [Setting()], rounds=1)
    assert (row.error, row.speed_up) == (None, None)
    assert row.status == 'its outputs hold values that are no numbers'
    assert row.median > 0


def test_outputs_of_other_shapes_are_told(dense, inputs):
    pair = [
        Candidate('dense', dense),
        Candidate('slim', Two(dense, 1.0), like='dense'),
    ]
    _, row = bench(pair, inputs, [Setting()], rounds=1)
    assert (row.error, row.speed_up) == (None, None)
    assert row.status.startswith('its outputs are others in number or shape')


def test_networks_are_judged_where_they_run(dense, inputs, measured):
    """With what runs them there, on images that it reads."""
    asked = []

    def judge(name, network, backend, run, images):
        images.fill_(0.5)
        asked.append((name, backend, tuple(run()[0].shape)))
        return None if name == 'dense' else {'top1': 90.0, 'top5': 99.0}

    candidates = [Candidate('dense', dense), Candidate('slim', build(4))]
    found = measured(
        candidates,
        inputs,
        {'dense': [0.4], 'slim': [0.2]},
        ('torch', 'compile'),
        fail=[('slim', 'compile')],
        judge=judge,
    )
    assert asked == [
        ('dense', 'torch', (2, 5)),
        ('slim', 'torch', (2, 5)),
        ('dense', 'compile', (2, 5)),
    ]
    assert [row.accuracy for row in found] == [None, 90.0, None, None]
