# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a network on trial computes with, and what it falls back to."""

from types import SimpleNamespace

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from notes import Notes
from torch import nn
from torchvision.ops import StochasticDepth

from mmlapp.core import analyse
from mmlapp.core.analysis.stages import (
    EXACT,
    OTHER_MODULES,
    STAGES,
    WHOLE,
    Runner,
    Stage,
    makes_noise,
    seeded,
)
from mmlapp.core.analysis.trial import Trial
from mmlapp.core.trace import trace

CORNER_STAGE = Stage(True, torch.float64, corner=True)
SCREEN = Stage(True, torch.float32, screen=True)


class Noted(nn.Module):
    """Computes something in the middle, and notes what it met."""

    def __init__(self, conv, function=lambda y: y):
        super().__init__()
        self.a, self.b, self.function = conv(3, 8), conv(8, 4), function
        self.met = Notes()

    def forward(self, x):
        y = self.a(x)
        self.met.append((y.dtype, tuple(y.shape[2:])))
        return self.b(self.function(y))


def settled(model, image):
    """The stages that a trial takes."""
    found = []
    original = Trial._settle

    def settle(self, removal, check, beside=()):
        outputs = original(self, removal, check, beside)
        found.append(STAGES[self._settled[check]])
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trial, '_settle', settle)
        groups = analyse(model, image).groups
    return set(found), {g.name: g.size for g in groups.prunable}


def narrow_kernel(y):
    if y.dtype != torch.float32:
        raise RuntimeError('not implemented for this type')
    return y


def small_numbers(y):
    """Finite for the weights of the test alone."""
    return y + (1 - y.abs()).log()


def far(y):
    if y.shape[2] < 80:
        raise RuntimeError('needs a larger image')
    return y


def tiny(y):
    return y * y.new_tensor(1.0, dtype=torch.float16)


@pytest.mark.parametrize(
    ('function', 'edge', 'stage'),
    [
        (lambda y: y, 8, CORNER_STAGE),
        (lambda y: y, 100, CORNER_STAGE),
        (narrow_kernel, 8, Stage(True, torch.float32, corner=True)),
        (small_numbers, 8, Stage(False, torch.float64)),
        (far, 100, SCREEN),
        (far, 90, CORNER_STAGE),
    ],
)
def test_the_first_stage_in_which_a_network_runs(conv, function, edge, stage):
    model = Noted(conv, function)
    with torch.no_grad():
        model.a.weight.mul_(0.01)
    image = torch.rand(1, 3, edge, edge)
    found, groups = settled(model, image)
    assert found == {stage}
    assert groups == {'a': 8}


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_tried_in_float64(conv, dtype):
    model = Noted(conv).to(dtype)
    found, groups = settled(model, torch.rand(1, 3, 8, 8).to(dtype))
    assert (found, groups) == ({CORNER_STAGE}, {'a': 8})
    assert {d for d, _ in model.met[2:]} == {torch.float64}
    assert model.a.weight.dtype == dtype


@pytest.mark.parametrize(
    ('shape', 'cut'),
    [((128, 100), (64, 64)), ((128, 96), (128, 96)), ((32, 32), (32, 32))],
)
def test_large_images_are_cut_to_a_corner(conv, shape, cut):
    model = Noted(conv)
    analyse(model, torch.rand(1, 3, *shape))
    assert model.met[0][1] == shape  # of the trace
    assert {met for _, met in model.met[2:]} == {cut}


@pytest.mark.parametrize(
    ('more', 'stage'),
    [
        ((None, 'tensor', 3), CORNER_STAGE),
        ((SimpleNamespace(size=(100, 100)),), SCREEN),
        (([{'size': SimpleNamespace()}],), SCREEN),
    ],
)
def test_no_corner_if_something_else_tells_the_size(conv, more, stage):
    model = Noted(conv)
    model.forward = lambda x, *rest: Noted.forward(model, x)
    image = torch.rand(1, 3, 100, 100)
    found = settled(model, (image, *more))
    assert found == ({stage}, {'a': 8})


def test_no_corner_if_other_modules_run_on_it(conv):
    model = Noted(conv)
    model.extra = conv(8, 8)
    model.function = lambda y: model.extra(y) if y.shape[2] > 64 else y
    image = torch.rand(1, 3, 100, 100)
    runner = Runner(model, trace(model, lambda: model(image)).order, False)
    for stage, what in (CORNER_STAGE, OTHER_MODULES), (EXACT, None):
        with runner.computing(stage, WHOLE, False):
            _, failure = runner.outputs(lambda: model(image), stage)
        assert (failure and failure.error) == what
    model.met.clear()
    assert settled(model, image)[0] == {SCREEN}
    # The second run alone sees a corner: the trial knows of it.
    assert [size for _, size in model.met].count((64, 64)) == 1


@pytest.mark.parametrize(
    ('function', 'groups'),
    [
        (lambda y: (y * 1e5).sin(), {'a': 8}),  # rounding of float32 alone
        (lambda y: y + y.shape[1] * 1e-4, {}),
        (lambda y: y + y.shape[1] * 1e-8, {'a': 8}),
    ],
)
def test_a_difference_in_float32_is_looked_at_in_float64(
    conv, function, groups
):
    model = Noted(conv, lambda y: function(far(y)))
    found = settled(model, torch.rand(1, 3, 100, 100))
    assert found == ({SCREEN}, groups)


@pytest.mark.parametrize('function', [tiny, narrow_kernel])
def test_what_is_less_exact_inside(conv, function):
    """The network itself computes in less, or not at all."""
    model = Noted(conv, function)
    image = torch.rand(1, 3, 8, 8)
    runner = Runner(model, [], False)
    assert runner.is_rough(lambda: model(image), EXACT) is (function is tiny)


def test_random_numbers_begin_anew_and_are_put_back():
    before = torch.get_rng_state()
    drawn = []
    for seed in (0, 0, 1):
        with seeded({torch.device('cpu')}, seed):
            drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_buffers_that_a_run_changes_begin_anew(conv):
    model = Noted(conv)
    model.register_buffer('calls', torch.zeros(()))

    def count(y):
        model.calls += 1
        assert model.calls == 1
        return y

    model.function = count
    image = torch.rand(1, 3, 8, 8)
    runner = Runner(model, [], False)
    for _ in range(2):
        with runner.computing(EXACT, WHOLE, False):
            assert runner.outputs(lambda: model(image), EXACT)[1] is None
    assert model.calls == 0


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_copies_in_another_precision_may_be_changed(conv, dtype):
    model = Noted(conv)
    image = torch.rand(1, 3, 8, 8)
    runner = Runner(model, [], False)
    given = model.a.weight

    def change():
        assert model.a.weight.dtype == dtype
        assert model.a.weight.data_ptr() != first.data_ptr()
        assert torch.equal(model.a.weight, first.to(dtype))
        model.a.weight.data.zero_()
        return model(image)

    for _ in range(2):
        with runner.computing(EXACT, WHOLE, False) as recast:
            first = model.a.weight
            assert first.ne(0).all()
            recast(dtype)
            outcome = runner.outputs(change, EXACT, train=True)
            assert outcome[1] is None
        assert outcome[0][0].dtype == dtype
    assert model.a.weight is given
    assert torch.get_default_dtype() == torch.float32


def test_dropout_that_leaves_zeros_does_not_run_in_training():
    kinds = nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout
    model = nn.Sequential(*(kind() for kind in kinds), nn.BatchNorm1d(3))
    runner, found = Runner(model, [], False), []

    def forward():
        found.extend(module.training for module in model)
        return torch.zeros(1)

    with runner.computing(EXACT, WHOLE, False):
        runner.outputs(forward, EXACT, train=True)
        runner.outputs(forward, EXACT)
    assert found == [False, False, True, True, False] + [False] * 5


@pytest.mark.parametrize('steady', [False, True])
def test_noise_may_be_the_same_at_any_width(steady):
    runner = Runner(nn.Linear(1, 1), [], False)
    wide, narrow = (
        runner.outputs(lambda w=w: torch.randn(2, w), EXACT, steady=steady)
        for w in (8, 5)
    )
    assert torch.equal(wide[0][0][:, :5], narrow[0][0]) is steady


class OwnDropPath(DropPath):
    """May do more than to multiply whole samples."""


NOISE = {
    'stochastic depth': (StochasticDepth(0.5, 'row'), False),
    'drop path': (DropPath(0.5), False),
    'dropout': (nn.Dropout(0.5), False),
    'dropout that fills in': (nn.AlphaDropout(0.5), True),
    'of the user': (OwnDropPath(0.5), True),
}


@pytest.mark.parametrize('name', NOISE)
def test_noise_of_whole_samples_stays_out_of_training(name):
    noise, runs = NOISE[name]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), noise, nn.Conv2d(8, 2, 1))
    assert makes_noise(noise) is runs
    met = []
    noise.register_forward_hook(lambda m, _, __: met.append(m.training))
    analyse(model, torch.rand(1, 3, 8, 8))
    assert any(met) is runs
