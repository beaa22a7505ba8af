# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from pruning_steps import at_step, decide
from torch import nn
from torch.nn import functional

from mmlapp.core import Phase, PruningError, attach
from mmlapp.core.methods.adaptive_l1 import TRAINING

SIZES = [12, 72, 72]


@pytest.fixture
def block(net, conv):
    """A free width inside, and a stream whose layers lose stripes."""

    def make():
        return net(
            lambda m, x: m.head(
                ((y := m.stem(x)) + m.b(m.a(y).relu())).mean((2, 3))
            ),
            stem=conv(3, 8),
            a=conv(8, 12),
            b=conv(12, 8),
            head=nn.Linear(8, 5),
        )

    return make


@pytest.fixture
def phase(block, image):
    """Makes a network in a phase."""

    def make(steps=10, target=1.0, unit='stripes', **settings):
        model = block()
        pruner = attach(
            model,
            image,
            unit=unit,
            method=dict(type='adaptive_l1', **settings),
            normalisation='none',
        )
        pruner.begin({'flops': target}, steps)
        return model

    return make


def explicit(model, image, skeleton):
    """The same network with the skeleton multiplied by hand."""
    free, stem, last = skeleton.double().split(SIZES)
    weights = {
        name: getattr(model, name)._parameters['weight'].detach()
        for name in ['stem', 'a', 'b']
    }
    biases = {name: getattr(model, name).bias.detach() for name in weights}
    y = functional.conv2d(
        image, weights['stem'] * stem.view(8, 1, 3, 3), biases['stem'], 1, 1
    )
    z = functional.conv2d(
        y, weights['a'] * free.view(12, 1, 1, 1), biases['a'] * free, 1, 1
    )
    z = functional.conv2d(
        z.relu(), weights['b'] * last.view(8, 1, 3, 3), biases['b'], 1, 1
    )
    return model.head((y + z).mean((2, 3)))


@pytest.mark.parametrize('train', [True, False])
def test_the_skeleton_multiplies_weights_in_the_phase(phase, image, train):
    """Stripes of the stream, filters and their biases elsewhere."""
    model = phase().train(train)
    skeleton = model.pruner.method.skeleton
    skeleton.copy_(torch.rand(156) + 0.5)
    torch.testing.assert_close(model(image), explicit(model, image, skeleton))


def test_a_step_follows_the_gradient_and_the_pull(phase, image):
    """Against autograd through the product by hand."""
    model = phase(alpha=1e-3, lr=0.5)
    pruner, method = model.pruner, model.pruner.method
    before = (torch.rand(156) + 0.5).requires_grad_()
    explicit(model, image, before).square().sum().backward()
    method.skeleton.copy_(before.detach())
    model(image).square().sum().backward()
    pruner.step()
    # All live: the pull is the same everywhere.
    pull = 1e-3 * TRAINING / 10
    expected = before.detach() - 0.5 * (before.grad + pull)
    torch.testing.assert_close(
        method.skeleton, expected.clamp_min(1e-6), rtol=1e-4, atol=1e-5
    )


def test_the_less_is_left_the_weaker_the_pull(phase):
    """By the share that lives, over its mean over the groups."""
    pruner = phase(alpha=2e-5, steps=100).pruner
    kept = zip(SIZES, (3, 18, 72), strict=True)
    gate = torch.cat([torch.arange(n) < k for n, k in kept])
    with torch.no_grad():
        pruner.gate.copy_(gate)
    # Shares 1/4, 1/4 and 1, of mean 1/2.
    expected = 2e-5 * TRAINING / 100 * torch.tensor([0.5, 0.5, 2.0])
    torch.testing.assert_close(pruner.method.pull(pruner), expected)


def test_small_entries_are_removed_for_good(phase):
    """And the largest of every group stays, whatever it is."""
    pruner = phase(alpha=0, threshold=0.2).pruner
    skeleton = pruner.method.skeleton
    skeleton.fill_(1)
    skeleton[3], skeleton[4] = 0.2, 0.21
    skeleton[12:84] = torch.linspace(0.1, 0.01, 72)
    decide(pruner)
    assert pruner.mask[:12].nonzero()[:, 0].tolist() == [
        i for i in range(12) if i != 3
    ]
    assert pruner.mask[12:84].nonzero()[:, 0].tolist() == [0]
    assert pruner.mask[84:].all()
    # What was removed learns no more and does not come back.
    frozen = skeleton[3].clone()
    pruner.gradient = torch.full_like(skeleton, -5)
    decide(pruner)
    assert not pruner.mask[3]
    assert skeleton[3] == frozen
    assert (skeleton[:3] > 1).all()


def test_what_the_schedule_removed_comes_behind_all_others(phase):
    """However large its entry was; it comes back where others leave room."""
    pruner = phase(alpha=0).pruner
    with torch.no_grad():
        pruner.gate[:2] = 0
    pruner.method.skeleton[:3] = torch.tensor([8.0, 9.0, 0.1])
    assert pruner.method.ranking(pruner).argsort()[:3].tolist() == [0, 1, 2]
    decide(pruner)
    assert pruner.mask.logical_not().nonzero()[:, 0].tolist() == [0, 1]
    pruner.finish()
    assert pruner.mask.all()


def test_the_schedule_removes_the_smallest_of_all_groups(phase):
    pruner = phase(alpha=0, target=0.5).pruner
    order = torch.randperm(156)
    skeleton = pruner.method.skeleton
    skeleton.copy_(0.5 + order / 156)
    at_step(pruner, 8)  # where the target is reached
    decide(pruner)
    kept = pruner.mask
    assert 0.45 < pruner.ratios()['flops'] <= 0.5
    # One order over all groups, cut once.
    assert skeleton[kept].min() > skeleton[~kept].max()


@pytest.mark.parametrize('unit', ['stripes', 'channels'])
def test_the_network_is_the_same_when_the_weights_take_over(
    phase, image, unit
):
    model = phase(unit=unit).eval()
    pruner = model.pruner
    skeleton = pruner.method.skeleton
    skeleton.copy_(torch.rand(len(skeleton)) + 0.5)
    twin, before = copy.deepcopy(model), model(image)
    pruner.finish()
    assert pruner.phase == Phase.FINISHED
    assert set(pruner.gate.tolist()) == {1}
    torch.testing.assert_close(model(image), before)
    # A copy multiplies weights of its own, and an averaged one when its
    # phase ends with that of the model.
    torch.testing.assert_close(twin(image), before)
    twin.pruner.take_over(pruner)
    torch.testing.assert_close(twin(image), before)
    twin.pruner.take_over(pruner)
    torch.testing.assert_close(twin(image), before)


def test_weights_take_over_in_modules_that_were_replaced(normed, image):
    """As synchronised norms are, before the first forward."""
    model = normed()
    pruner = attach(model, image, method='adaptive_l1', normalisation='none')
    model.norm1 = nn.BatchNorm2d(16).double()
    model.eval()
    pruner.begin({'flops': 1.0}, 10)
    pruner.method.skeleton.copy_(torch.rand(len(pruner.gate)) + 0.5)
    before = model(image)
    pruner.finish()
    torch.testing.assert_close(model(image), before)
    assert (model.norm1.weight != 1).any()


def test_the_log_shows_the_mean_of_what_lives(phase):
    pruner = phase().pruner
    with torch.no_grad():
        pruner.gate[1:12] = 0
    pruner.method.skeleton[0] = 0.5
    pruner.method.skeleton[1:12] = 7
    found = pruner.method.by_group(pruner)['skeleton']
    assert found.tolist() == [0.5, 1, 1]


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (dict(score='l1'), 'score=l1: method adaptive_l1 ranks by its skel'),
        (dict(normalisation='rank'), r"'rank'.*Set normalisation='none'"),
        (dict(alpha=-1.0), r'method adaptive_l1 alpha=-1\.0'),
        (dict(threshold=1), 'nothing would live'),
        (dict(lr=0), 'method adaptive_l1 lr=0'),
    ],
)
def test_settings_that_cannot_be(block, image, arguments, text):
    own = {k: v for k, v in arguments.items() if k in ('score',)}
    own['normalisation'] = arguments.get('normalisation', 'none')
    settings = {k: v for k, v in arguments.items() if k not in own}
    with pytest.raises(PruningError, match=text):
        attach(
            block(), image, method=dict(type='adaptive_l1', **settings), **own
        )


def test_weights_are_multiplied_once(phase, image):
    """Though finish is called after the last step, too."""
    model = phase(steps=4, target=0.5, alpha=1e-3)
    for _ in range(4):
        model(image).square().mean().backward()
        model.pruner.step()
    assert model.pruner.phase == Phase.FINISHED
    expected = copy.deepcopy(model.state_dict())
    model.pruner.finish()
    torch.testing.assert_close(
        model.state_dict(), expected, rtol=0, atol=0, equal_nan=True
    )
