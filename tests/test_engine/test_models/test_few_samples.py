# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from contextlib import suppress

import torch
from mmdet.models.task_modules.samplers import (
    CombinedSampler,
    PseudoSampler,
    RandomSampler,
)
from notes import Notes
from torch import nn

from mmlapp.engine.models.few_samples import FEW, few_samples
from mmlapp.engine.models.modes import Batch, first_way, run_once


def random_sampler(number):
    return RandomSampler(num=number, pos_fraction=0.25)


class Stages(nn.Module):
    """A loss of as many boxes as its samplers choose."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        parts = dict(type='RandomSampler')
        self.first = random_sampler(256)
        self.stages = [random_sampler(512), random_sampler(4)]
        self.pseudo, self.num = PseudoSampler(), 100
        self.both = CombinedSampler(
            parts, parts, num=128, pos_fraction=0.25, neg_pos_ub=-1
        )
        self.seen = Notes()

    def numbers(self):
        both = self.both
        samplers = self.first, *self.stages, both, both.neg_sampler
        return [sampler.num for sampler in samplers]

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.seen.append(self.numbers())
        return {'loss': self.conv(inputs).sum()}


def test_few_are_chosen_for_a_while():
    model = Stages()
    before = model.numbers()
    assert before == [256, 512, 4, 128, before[-1]]
    with suppress(KeyError), few_samples(model):
        assert model.numbers() == [FEW, FEW, 4, FEW, min(before[-1], FEW)]
        # A module that counts something is none.
        assert model.num == 100
        raise KeyError
    assert model.numbers() == before


def test_modes_run_with_few():
    model = Stages()
    way = first_way(model, Batch((torch.rand(1, 3, 4, 4),), {}), 'loss', 1)
    run_once(model, way)
    assert max(map(max, model.seen)) == FEW
