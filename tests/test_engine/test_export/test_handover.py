# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from mmlapp.core import ChannelPlan, PruningError, attach, load_slim, narrow
from mmlapp.engine.export.handover import Slim, hand_over
from mmlapp.engine.export.network import Network


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        # Tied, which safetensors refuses to write.
        self.twin = self.head

    def forward(self, inputs, samples=None, mode='tensor'):
        return self.head(self.first(inputs).relu())


@pytest.fixture
def slim(images):
    model = Classifier()
    pruner = attach(model, images)
    pruner.begin({'flops': 0.5}, steps=1)
    pruner.step()
    plan = pruner.plan()
    narrow(model, plan)
    return Slim(Network.find(model, images), [plan], (), Classifier)


@pytest.mark.parametrize('name', ['plain', 'safetensors'])
def test_a_dense_model_becomes_the_slim_one(slim, images, tmp_path, name):
    out = tmp_path / 'slim.any'
    made = hand_over(slim, images, out, name)
    assert (made.error, made.size) == (0.0, out.stat().st_size)
    if name == 'safetensors':
        found = load_slim(Classifier(), load_file(out))
        with safe_open(out, 'pt') as file:
            (plan,) = json.loads(file.metadata()['pruning_plans'])
        assert ChannelPlan.from_dict(plan) == slim.plans[0]
    else:
        found = load_slim(Classifier(), out.rename(tmp_path / 'slim.pth'))
    torch.testing.assert_close(found(images), slim.network(images))


class Scaled(Classifier):
    """What its config does not say: a dense one computes otherwise."""

    def forward(self, inputs, samples=None, mode='tensor'):
        return super().forward(inputs) * 1.01


def test_what_differs_is_not_kept(slim, images, tmp_path):
    other = Slim(slim.network, slim.plans, (), Scaled)
    with pytest.raises(PruningError, match=r'relative error 0\.01, at most'):
        hand_over(other, images, tmp_path / 'slim.pth', 'plain')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['plain', 'safetensors'])
def test_a_folder_that_cannot_be_written(
    slim, images, tmp_path, monkeypatch, name
):
    def refuse(self, *args):
        raise PermissionError(13, 'Permission denied', str(self))

    monkeypatch.setattr('pathlib.Path.write_bytes', refuse)
    text = r"out='.*slim\.any' cannot be written \(Permission denied\)"
    with pytest.raises(PruningError, match=text):
        hand_over(slim, images, tmp_path / 'slim.any', name)


def test_a_file_that_exists(slim, images, tmp_path):
    path = tmp_path / 'slim.pth'
    path.write_text('mine')
    with pytest.raises(PruningError, match='--force'):
        hand_over(slim, images, path, 'plain')
    hand_over(slim, images, path, 'plain', force=True)
    assert len(torch.load(path)['state_dict']) == 7


def test_a_missing_package(slim, images, tmp_path, monkeypatch):
    monkeypatch.setattr(
        'mmlapp.engine.export.base.find_spec', lambda name: None
    )
    with pytest.raises(PruningError, match='pip install safetensors'):
        hand_over(slim, images, tmp_path / 'a.safetensors', 'safetensors')
