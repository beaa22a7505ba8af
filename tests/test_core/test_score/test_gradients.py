# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import PruningError, ScoreContext, attach
from mmlapp.core.score import SCORES


@pytest.fixture
def scored(net, conv, image):
    """A network with and without norms that is linear in every gate."""

    def make(method):
        model = net(
            lambda m, x: m.d(m.b(m.norm(m.a(x)))),
            a=conv(3, 8, bias=False),
            norm=nn.BatchNorm2d(8),
            b=conv(8, 6),
            d=conv(6, 4),
        )
        with torch.no_grad():
            model.norm.bias.normal_()
        pruner = attach(
            model,
            image,
            method=method,
            score='taylor',
            normalisation='none',
        )
        pruner.begin({'flops': 0.9}, 10)
        return model, image, pruner

    return make


@pytest.mark.parametrize('method', ['uniform', 'lapp'])
def test_taylor_is_the_change_of_a_loss_that_is_linear(scored, method):
    """Removing a channel changes the loss by p, exactly.

    Behind a norm too, whose output does not change with the length of a
    filter.
    """
    model, image, pruner = scored(method)
    target = torch.randn_like(model(image))
    gate, changes = pruner.gate.detach(), []
    with torch.no_grad():
        loss = (model(image) * target).sum()
        for channel in range(14):
            gate[channel] = 0
            changes.append(loss - (model(image) * target).sum())
            gate[channel] = 1
    (model(image) * target).sum().backward()
    pruner.step()
    expected = torch.stack(changes).square().float()
    assert expected.min() > 0
    torch.testing.assert_close(pruner.scores, expected, rtol=1e-4, atol=1e-6)


def test_a_channel_that_is_gone_is_scored_by_what_it_would_do(scored):
    model, image, pruner = scored('uniform')
    with torch.no_grad():
        pruner.gate[3] = 0
    model(image).square().sum().backward()
    pruner.step()
    assert pruner.scores[3] > 0


def test_before_the_first_gradient_all_score_alike():
    found = SCORES.build('taylor')(ScoreContext(torch.randn(6, 4)))
    assert found.tolist() == [1] * 6


def test_a_phase_does_not_know_what_an_earlier_one_did(scored):
    model, image, pruner = scored('uniform')
    model(image).square().sum().backward()
    pruner.step()
    assert pruner.scores.unique().numel() == 14
    pruner.reset()
    pruner.begin({'flops': 0.9}, 10)
    assert pruner.scores.tolist() == [1] * 14


@pytest.mark.parametrize('memory', [0, -1, True, 'long'])
def test_a_memory_out_of_range(memory):
    with pytest.raises(PruningError, match=f'taylor memory={memory!r}: expe'):
        SCORES.build(dict(type='taylor', memory=memory))
