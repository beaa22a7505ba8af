# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import random

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from notes import Notes
from torch import nn
from torch.nn.functional import cross_entropy

from mmlapp.engine.models.few_samples import FEW
from mmlapp.engine.models.inputs import Batch
from mmlapp.engine.models.modes import (
    find_modes,
    first_way,
    fixed_chance,
    repeated,
    run_once,
    running_steps,
)

IMAGE = torch.rand(1, 3, 4, 4)


class Tutorial(nn.Module):
    """As in MMEngine's first tutorial; the loss has a head of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.side = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1)
        self.register_buffer('calls', torch.zeros(()))

    def forward(self, imgs, labels, mode):
        x = self.conv(imgs).mean((2, 3))
        if mode == 'loss':
            assert self.training
            assert len(imgs) == 2
            self.calls += 1
            self.side(imgs)
            return dict(loss=cross_entropy(x, labels))
        if mode == 'predict':
            imgs.zero_()
            return x, labels


def test_modes_run_with_what_was_made_up():
    model = Tutorial()
    found = find_modes(model, Batch((IMAGE,)))
    assert [way.name for way in found.ways] == [
        "mode='loss'",
        "mode='predict'",
    ]
    assert [way.train for way in found.ways] == [True, False]
    assert not any(way.compare for way in found.ways)
    assert found.failed == {}
    assert found.ran == {'', 'conv', 'side'}
    # The model is as it was, and so is the image.
    assert (int(model.calls), model.training) == (0, True)
    output, _ = found.ways[1].run()
    assert torch.equal(output, model.conv(IMAGE).mean((2, 3)))


def test_a_mode_that_does_not_run():
    class Rigid(Tutorial):
        def forward(self, imgs, labels, mode):
            if mode == 'loss':
                raise KeyError('boxes')
            return super().forward(imgs, labels, mode)

    found = find_modes(Rigid(), Batch((IMAGE,)))
    assert [way.name for way in found.ways] == ["mode='predict'"]
    assert found.failed == {"mode='loss'": "KeyError: 'boxes'"}


def test_inputs_of_a_users_own_are_the_only_ones():
    given = Batch((), dict(imgs=IMAGE, labels=torch.tensor([7])), own=True)
    found = find_modes(Tutorial(), given)
    assert [way.name for way in found.ways] == ["mode='predict'"]
    assert 'AssertionError' in found.failed["mode='loss'"]
    assert found.ways[0].run()[1].item() == 7


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        first, second = inputs
        assert isinstance(inputs, list)
        return dict(loss=(self.conv(first) - self.conv(second)).mean())


def test_views_of_self_supervised_training():
    assert find_modes(Views(), Batch((IMAGE,))).failed == {}


def test_both_images():
    both = repeated(dict(a=IMAGE), 2)['a']
    assert torch.equal(both, torch.cat([IMAGE, IMAGE.flip(3)]))
    assert torch.equal(repeated(IMAGE, 1), IMAGE)


def test_chance_is_fixed_and_goes_on():
    def draw():
        return random.random(), np.random.rand()

    with fixed_chance():
        first = draw()
    random.seed(5)
    np.random.seed(5)
    expected = draw()
    random.seed(5)
    np.random.seed(5)
    with fixed_chance():
        assert draw() == first
    assert draw() == expected


@pytest.mark.parametrize('known', [{}, {'max_iters': 7}])
def test_a_schedule_inside_of_a_model(known, monkeypatch):
    hub = MessageHub.get_current_instance()
    monkeypatch.setattr(hub, '_runtime_info', dict(known))
    with running_steps():
        assert hub.get_info('max_iters') == known.get('max_iters', 1000)
        assert hub.get_info('epoch') == 0
    assert hub.runtime_info == known


class Sized(Tutorial):
    """Notes the sizes of its images; some it may not take."""

    def __init__(self, least=0):
        super().__init__()
        self.least, self.seen = least, Notes()

    def forward(self, imgs, labels, mode):
        self.seen.append(imgs.shape[-1])
        assert imgs.shape[-1] >= self.least, 'too small'
        return super().forward(imgs, labels, mode)


def test_large_images_are_cut():
    model = Sized()
    assert find_modes(model, Batch((torch.rand(1, 3, 200, 200),))).failed == {}
    assert set(model.seen) == {128}


class Proposer(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 1, 1)

    def predict(self, image):
        return [InstanceData(scores=self(image).flatten())]


class Proposing(nn.Module):
    """Predicts by as many boxes as its first stage proposes."""

    def __init__(self, wanted=None):
        super().__init__()
        self.rpn_head, self.counts, self.wanted = Proposer(), Notes(), wanted

    def forward(self, inputs, data_samples=None, mode='tensor'):
        boxes = self.rpn_head.predict(inputs)[0].scores
        self.counts.append(len(boxes))
        assert self.wanted in (None, len(boxes)), f'{len(boxes)} boxes'
        return {'loss': boxes.sum()}


def test_few_proposals_are_enough_to_predict():
    model = Proposing()
    way = first_way(model, Batch((torch.rand(1, 3, 9, 9),)), 'predict', 1)
    run_once(model, way)
    assert set(model.counts) == {FEW}
    assert len(model.rpn_head.predict(torch.rand(1, 3, 9, 9))[0]) == 81


def test_all_proposals_where_their_number_is_known():
    """As many as there are learned queries."""
    model = Proposing(wanted=81)
    way = first_way(model, Batch((torch.rand(1, 3, 9, 9),)), 'predict', 1)
    run_once(model, way)
    assert model.counts == [FEW, 81, 81]
    # Of what fails with all of them that is the reason.
    batch = Batch((torch.rand(1, 3, 9, 9),))
    with pytest.raises(AssertionError, match='81 boxes'):
        first_way(Proposing(wanted=80), batch, 'predict', 1)


def test_whole_images_are_taken_where_a_corner_does_not_do():
    model = Sized(least=150)
    found = find_modes(model, Batch((torch.rand(1, 3, 200, 200),)))
    assert found.failed == {}
    found.ways[1].run()
    assert model.seen[-1] == 200
