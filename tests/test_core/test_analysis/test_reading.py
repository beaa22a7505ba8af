# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What training adds to removed channels is read by nobody."""

import copy

import pytest
import torch
from torch import nn

from mmlapp.core import Way, analyse, attach, narrow
from mmlapp.core.analysis.draws import SteadyDraws


class Adds(nn.Module):
    """Adds something, in training alone."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, y):
        return y + self.function(y) if self.training else y


def shift(y):
    return 0.1


def noise(y):
    return torch.randn_like(y) * 0.1


ADDING = {
    'shift': lambda: Adds(shift),
    'noise': lambda: Adds(noise),
    'noise of a shape': lambda: Adds(lambda y: torch.randn(y.shape).to(y)),
    'alpha dropout': nn.AlphaDropout,
    'feature alpha dropout': nn.FeatureAlphaDropout,
}


def train_both(model, image, mask_randomly):
    """Compares outputs and gradients, masked and narrowed."""
    pruner = attach(model, image)
    mask_randomly(pruner)
    model.train()
    with SteadyDraws():
        masked = model(image)
    masked.square().sum().backward()
    # Gradients are sliced as parameters are.
    narrow(model, pruner.plan())
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    with SteadyDraws():
        narrowed = model(image)
    narrowed.square().sum().backward()
    torch.testing.assert_close(narrowed, masked)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])
    return {group.name: group.size for group in pruner.groups}


def readers(model, image):
    return {site.name for site in analyse(model, image).trace.readers}


@pytest.mark.parametrize('name', ADDING)
def test_masked_and_narrowed_train_alike(conv, image, mask_randomly, name):
    parts = conv(3, 8), nn.ReLU(), ADDING[name](), conv(8, 6), nn.ReLU()
    model = nn.Sequential(*parts, conv(6, 4)).double()
    groups = train_both(model, image, mask_randomly)
    assert groups == {'0': 8, '3': 6}


READING = {
    'plain': lambda: nn.Conv2d(8, 6, 3, padding=1),
    'grouped': lambda: nn.Conv2d(8, 6, 3, padding=1, groups=2),
    'transposed': lambda: nn.ConvTranspose2d(8, 6, 3, padding=1),
}


@pytest.mark.parametrize('name', READING)
def test_only_who_reads_it_is_masked(conv, image, mask_randomly, name):
    parts = conv(3, 8), Adds(shift), READING[name](), nn.ReLU(), conv(6, 4)
    model = nn.Sequential(*parts).double()
    assert readers(model, image) == {'2.weight'}
    train_both(model, image, mask_randomly)


def test_noise_in_a_residual_stream(net, conv, image, mask_randomly):
    def forward(m, x):
        y = m.noise(m.a(x))
        y = y + m.c(m.b(y).relu())
        y = m.noise(y + m.d(y))
        return m.head(m.tokens(y.mean((2, 3))).tanh())

    model = net(
        forward,
        noise=Adds(noise),
        a=conv(3, 8),
        b=conv(8, 6),
        c=conv(6, 8),
        d=conv(8, 8),
        tokens=nn.Linear(8, 5),
        head=nn.Linear(5, 2),
    )
    expected = {'b.weight', 'd.weight', 'tokens.weight'}
    assert readers(model, image) == expected
    groups = train_both(model, image, mask_randomly)
    assert groups == {'a': 8, 'b': 6, 'tokens': 5}


def test_flattened_noise(conv, image, mask_randomly):
    """[C, H, W] in a row: each channel is as many inputs as it has pixels."""
    parts = conv(3, 8), Adds(noise), nn.Flatten(), nn.Linear(512, 6)
    model = nn.Sequential(*parts, nn.Linear(6, 2)).double()
    assert readers(model, image) == {'3.weight'}
    assert train_both(model, image, mask_randomly) == {'0': 8, '3': 6}


class Steps(nn.Module):
    """Mean over the steps of a recurrent layer, or of attention."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        steps = x.flatten(2).transpose(1, 2)  # [N, H W, C]
        attends = isinstance(self.layer, nn.MultiheadAttention)
        given = (steps, steps, steps) if attends else (steps,)
        return self.layer(*given)[0].mean(1)


def recurrent():
    return nn.LSTM(8, 8, batch_first=True)


def attention():
    return nn.MultiheadAttention(8, 2, batch_first=True)


@pytest.mark.parametrize('layer', [recurrent, attention])
def test_a_block_reads_noise(conv, image, mask_randomly, layer):
    parts = conv(3, 8), Adds(noise), Steps(layer()), nn.Linear(8, 4)
    model = nn.Sequential(*parts).double()
    assert {'2.layer.weight_ih_l0', '2.layer.in_proj_weight'} & readers(
        model, image
    )
    assert train_both(model, image, mask_randomly)['0'] == 8


def test_a_weight_that_no_layer_reads_is_masked(
    net, conv, image, mask_randomly
):
    def forward(m, x):
        y = m.noise(m.a(x))
        return m.c(nn.functional.conv2d(y, m.b.weight).relu())

    model = net(
        forward,
        noise=Adds(noise),
        a=conv(3, 8),
        b=conv(8, 6, size=1, bias=False),
        c=conv(6, 4),
    )
    assert readers(model, image) == {'b.weight'}
    assert train_both(model, image, mask_randomly) == {'a': 8, 'b': 6}


def test_a_copy_is_masked_as_its_original(net, conv, image, mask_randomly):
    """A teacher that averages its student adds noise as well."""
    student = nn.Sequential(conv(3, 8), Adds(shift), conv(8, 4))
    teacher = copy.deepcopy(student).requires_grad_(False)
    model = net(lambda m, x: m.student(x), student=student, teacher=teacher)
    pruner = attach(model, image)
    mask_randomly(pruner)
    masked = model.teacher.train()(image)
    narrow(model, pruner.plan())
    torch.testing.assert_close(model.teacher(image), masked)


def test_what_no_mask_can_help_is_frozen_alone(net, conv, image, frozen):
    """Sums of channels meet the noise of removed ones; layers do not."""

    def forward(m, x):
        y, z = m.noise(m.a(x)), m.noise(m.b(x))
        return m.c(y) + z.sum(1, keepdim=True)

    model = net(
        forward,
        noise=Adds(noise),
        a=conv(3, 8),
        b=conv(3, 6),
        c=conv(8, 4),
    )
    found = frozen(model, image)
    assert set(found) == {'b', 'c'}
    assert 'in training' in found['b']
    assert readers(model, image) == {'c.weight'}


def test_a_branch_stays_where_nothing_is_added(conv, image):
    parts = conv(3, 8), Adds(shift), conv(8, 6), nn.ReLU(), conv(6, 8)
    model = nn.Sequential(*parts, nn.ReLU(), conv(8, 4)).double()
    found = analyse(model, image, bypass='depthwise')
    assert '2' in found.without
    assert '4' in found.branches


@pytest.mark.parametrize('added', [noise, shift])
def test_what_a_loss_alone_adds(net, conv, image, mask_randomly, added):
    """The example runs all heads; a trace of it has seen none of that."""

    def forward(m, x):
        y = m.a(x)
        return m.head(y) + m.plain(y)

    def loss(m, x):
        y = m.a(x)
        return (m.head(y + added(y)) + m.plain(y)).square().sum()

    model = net(forward, a=conv(3, 8), head=conv(8, 2), plain=conv(8, 2))
    way = Way(lambda: loss(model, image), 'loss', train=True, compare=False)
    found = analyse(model, image, also=[way])
    assert {site.name for site in found.trace.readers} == {'head.weight'}
    pruner = attach(model, image, analysis=found)
    mask_randomly(pruner)
    with SteadyDraws():
        masked = loss(model, image)
    masked.backward()
    narrow(model, pruner.plan())
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    with SteadyDraws():
        narrowed = loss(model, image)
    narrowed.backward()
    torch.testing.assert_close(narrowed, masked)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])
