# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn
from torch.nn.functional import cross_entropy

from mmlapp.core import PruningError, analyse
from mmlapp.engine.models.example import (
    FEATURES,
    ExampleForward,
    example_of,
    notes_of,
)
from mmlapp.engine.models.few_samples import FEW
from mmlapp.engine.models.modes import Modes

SHAPE = (3, 4, 4)


class Plain(nn.Module):
    """Returns what it was given."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, image, samples, mode):
        return self.conv(image), samples, mode


def test_a_forward_without_losses():
    model = Plain()
    forward = ExampleForward(model, (3, 4, 5))
    ((output, samples, mode),) = forward()
    assert torch.equal(output, model.conv(*forward.batch.args))
    assert (samples, mode) == (None, 'tensor')
    assert (forward.name, forward.reason) == ("mode='tensor'", '')
    assert forward.ran == {'', 'conv'}


def test_other_tensors_in_place_of_its_own():
    model, image = Plain(), torch.rand(1, 3, 4, 4)
    forward = ExampleForward(model, SHAPE)
    assert torch.equal(forward(image)[0][0], model.conv(image))


def test_a_batch_of_two():
    (image,) = ExampleForward(Plain(), SHAPE).batch.args
    forward = ExampleForward(Plain(), SHAPE, count=2)
    (found,) = forward.attempt.tensors
    assert torch.equal(found, torch.cat([image, image.flip(3)]))


def test_a_part_of_a_model_is_named_as_such():
    """As a backbone in the place of the whole model."""
    text = r"\(TypeError: .*takes no mode, .*the whole model.*scope='backbone'"
    with pytest.raises(PruningError, match=text):
        ExampleForward(nn.Conv2d(3, 2, 1), SHAPE)


def test_a_model_that_does_not_run_says_on_what():
    text = r'input_shape=\(1, 4, 5\) \(RuntimeError: .*Set input_shape to'
    with pytest.raises(PruningError, match=text) as info:
        ExampleForward(Plain(), (1, 4, 5))
    assert isinstance(info.value.__cause__, RuntimeError)


class Head(nn.Module):
    """Chooses at random."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, image):
        return self.conv(image)

    def predict(self, image):
        return [InstanceData(scores=self(image).flatten() * torch.rand(()))]


class TwoStage(Plain):
    def __init__(self):
        super().__init__()
        self.rpn_head = Head()

    def forward(self, image, samples, mode):
        return self.rpn_head.predict(image)[0].scores


@torch.no_grad()
def test_every_call_gets_the_proposals_of_the_first():
    model, random = TwoStage(), torch.get_rng_state()
    forward = ExampleForward(model, SHAPE)
    # Others' random numbers go on.
    assert torch.equal(torch.get_rng_state(), random)
    (first, raw), (second, _) = forward(), forward()
    assert torch.equal(first, second)
    # What they are made from is an output, too.
    assert torch.equal(raw, model.rpn_head.conv(*forward.batch.args))
    torch.manual_seed(1)
    assert not torch.equal(
        model.rpn_head.predict(raw.repeat(1, 3, 1, 1))[0].scores, first
    )


class Sampled(TwoStage):
    """Wants samples that tell the size of the image."""

    def forward(self, image, samples, mode):
        assert samples[0].img_shape == tuple(image.shape[2:])
        return super().forward(image, samples, mode)


@torch.no_grad()
def test_samples_of_a_corner_are_made_for_it(monkeypatch):
    monkeypatch.setattr(
        'mmlapp.engine.models.example.plain_samples',
        lambda model, inputs: [SimpleNamespace(img_shape=inputs.shape[2:])],
    )
    forward = ExampleForward(Sampled(), (3, 100, 120))
    whole, raw = forward()
    assert whole.shape == (100 * 120,)
    corner = forward.on_corner
    assert corner is forward.on_corner
    few, part = corner()
    # A few of the proposals, the same ones at every call.
    assert few.shape == (FEW,)
    assert torch.equal(corner()[0], few)
    torch.testing.assert_close(part, raw[..., :64, :64])
    assert corner.on_corner is None
    # Its own go on as they were.
    assert torch.equal(forward()[0], whole)
    assert ExampleForward(Sampled(), (3, 90, 90)).on_corner is None


def test_images_alone_are_cut_by_the_core():
    assert ExampleForward(Plain(), (3, 100, 100)).on_corner is None


class Behind(nn.Module):
    """A detector whose head wants something that nobody can make up."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1))
        self.head = nn.Conv2d(8, 4, 1)
        self.embedding = nn.Parameter(torch.rand(8))
        self.preprocess = nn.Identity()

    def extract_feat(self, image):
        return self.backbone(image)

    def forward(self, image, samples, mode):
        return self.head(self.extract_feat(image) * samples['depth'])


def test_backbone_and_neck_alone():
    """What lies behind reads their outputs, and those stay."""
    model = Behind()
    example = example_of(model, SHAPE)
    assert example.forward.name == FEATURES
    assert example.unused == ['embedding', 'head']
    found = analyse(
        model, example.forward, also=example.also, unused=example.unused
    )
    assert {g.name: g.size for g in found.groups.prunable} == {'backbone.0': 8}
    assert found.flops == (3 * 8 + 8 * 8) * 16
    *_, note = notes_of(example.forward, example.modes)
    assert note.endswith('FLOPs are those of backbone and neck alone')
    assert "mode='tensor' does not run (TypeError" in note


@pytest.mark.parametrize(
    ('scope', 'text'),
    [
        (
            'head',
            r"scope='head' .*that ran\. Those lie below: backbone\. What it "
            r"names was not reached: mode='loss' was not tried.*"
            r"mode='tensor' does not run \(TypeError.*of backbone and neck "
            r'alone\. Give inputs and ground truth',
        ),
        ('neck', 'below: backbone$'),
        ('preprocess', 'below: backbone$'),
        (['backbone', 'backbone.2'], 'below: backbone$'),
    ],
    ids=['behind', 'misspelled', 'without layers', 'ran'],
)
def test_a_scope_that_was_not_reached_is_told_from_a_wrong_one(scope, text):
    model = Behind()
    model.backbone.append(nn.BatchNorm2d(8))
    example = example_of(model, SHAPE)
    settings = dict(scope=scope, ignore=(), bypass=None, unit='channels')
    with pytest.raises(PruningError, match=text):
        example.analyse(settings)


class Tutorial(nn.Module):
    """As in MMEngine's first tutorial."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
        self.side = nn.Linear(8, 4)

    def forward(self, imgs, labels, mode):
        early = self.backbone[0](imgs)
        x = self.backbone[1](early).mean((2, 3))
        if mode == 'loss':
            x = x + self.side(early.mean((2, 3)))
            return dict(loss=cross_entropy(x, labels))
        return x if mode == 'predict' else None


def test_a_model_that_only_learns_and_predicts():
    model = Tutorial()
    example = example_of(model, SHAPE)
    assert example.forward.name == "mode='predict'"
    found = analyse(model, example.forward, also=example.also)
    assert found.reach.ways == {"mode='loss'": ['side']}
    (group,) = found.groups.prunable
    # The head of the loss shrinks with what it reads.
    assert 'side' in {member.site.module for member in group.members}


class Garbage(Tutorial):
    """Sets its level when weights are initialised, as Deformable DETR does."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.full((4,), float('nan')))

    def forward(self, imgs, labels, mode):
        if mode != 'loss':
            return super().forward(imgs, labels, mode)
        x = self.side(self.backbone[0](imgs).mean((2, 3))) + self.level
        if not x.isfinite().all():  # as matching of boxes does
            raise ValueError('matrix contains invalid numeric entries')
        return dict(loss=cross_entropy(x, labels))


def test_values_before_their_initialisation_do_not_count():
    model = Garbage()
    example = example_of(model, SHAPE)
    assert example.modes.failed == {}
    found = analyse(model, example.forward, also=example.also)
    # The model itself has a parameter, too.
    assert found.reach.ways == {"mode='loss'": ['', 'side']}
    assert model.level.isnan().all()


class Unreached(Tutorial):
    def forward(self, imgs, labels, mode):
        if mode == 'loss':
            self.side(labels['boxes'])
        return self.backbone(imgs)


def test_what_would_help():
    example = example_of(Unreached(), SHAPE)
    text = (
        "reaches 'side'.*mode='loss' does not run with the ground truth.*"
        r'input_shape=dict\(type=NAME\).*, or unused=\['
    )
    with pytest.raises(PruningError, match=text), example.explained():
        analyse(example.forward.model, example.forward, also=example.also)


def test_a_note_does_not_tell_where_a_library_was_built():
    error = 'RuntimeError: a >= 0 INTERNAL ASSERT FAILED at "./build/a.cpp":13'
    modes = Modes(failed={"mode='loss'": f'{error}, please report it'})
    (note,) = notes_of(SimpleNamespace(reason=''), modes)
    assert note.endswith('made up (RuntimeError: a >= 0, please report it)')
