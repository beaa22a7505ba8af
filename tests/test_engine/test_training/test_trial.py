# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A narrowed copy is tried before the model itself."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError, attach
from mmlapp.engine.training import trial
from mmlapp.engine.training.trial import (
    copy_of,
    find_obstacle,
    try_narrowing,
)

SHAPE = 3, 8, 8


class Net(nn.Module):
    """Runs in the manner of MMEngine's models."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return self.last(self.first(inputs))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    attach(model, torch.rand(1, *SHAPE))
    model.pruner.begin({'flops': 0.5}, 1)
    model.pruner.finish()
    return model


def test_the_model_stays_as_it_is(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    try_narrowing(model, model.pruner.plan(), SHAPE)
    after = model.state_dict()
    assert list(after) == list(before)
    for name, value in before.items():
        assert torch.equal(after[name], value)


def test_other_outputs_are_told(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(copied: nn.Module, plan: Any) -> nn.Module:
        return copy.deepcopy(Net())

    monkeypatch.setattr(trial, 'narrow', wrong)
    plan = model.pruner.plan()
    with pytest.raises(PruningError, match='differs from the masked one by'):
        try_narrowing(model, plan, SHAPE)
    # Where no image is known nothing can be compared.
    try_narrowing(model, plan, None)


class Predicting(Net):
    """Reads the narrowed layer in another mode with a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('scale', torch.ones(8, 1, 1))

    def forward(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get('mode') != 'predict':
            return super().forward(inputs)
        return self.last(self.first(inputs) * self.scale)


def test_predictions_are_tried_too() -> None:
    torch.manual_seed(0)
    model = Predicting()
    attach(model, torch.rand(1, *SHAPE))
    model.pruner.begin({'flops': 0.5}, 1)
    model.pruner.finish()
    with pytest.raises(PruningError, match='run on random 3x8x8, predict'):
        try_narrowing(model, model.pruner.plan(), SHAPE)


class Teaching(Net):
    """Makes its teacher in the first step, when it has been traced."""

    def forward(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get('mode') != 'loss':
            return super().forward(inputs)
        if self.ready and not hasattr(self, 'teacher'):
            self.teacher = copy.deepcopy(self.first)
        found = self.first(inputs)
        target = self.teacher(inputs).detach() if self.ready else 0
        return {'loss': (found - target).square().mean()}

    ready = False


def test_a_copy_that_training_made_is_found() -> None:
    torch.manual_seed(0)
    model = Teaching()
    attach(model, torch.rand(1, *SHAPE))
    model.pruner.begin({'flops': 0.5}, 1)
    model.pruner.finish()
    try_narrowing(model, model.pruner.plan(), SHAPE)
    model.ready = True
    model(torch.rand(1, *SHAPE), mode='loss')
    match = r'in mode loss the narrowed model does not run .*copy that was'
    with pytest.raises(PruningError, match=match):
        try_narrowing(model, model.pruner.plan(), SHAPE)


def test_what_any_process_finds_counts_for_all(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner: Any = SimpleNamespace(model=model, optim_wrapper=None)
    assert find_obstacle(runner, model.pruner.plan(), SHAPE) is None
    monkeypatch.setattr(
        trial,
        'dist',
        SimpleNamespace(all_gather_object=lambda mine: [mine, 'the other']),
    )
    found = find_obstacle(runner, model.pruner.plan(), SHAPE)
    assert found == 'the other'


def test_a_copy_runs_by_itself(model: nn.Module) -> None:
    """A forward that an object was given is bound to the original."""
    model.first.forward = model.first.forward
    twin, images = copy_of(model), torch.rand(1, *SHAPE)
    model.eval()
    twin.eval()
    torch.testing.assert_close(twin(images), model(images))
    for parameter in model.parameters():
        parameter.data.zero_()
    assert not model(images).any()
    assert twin(images).any()
