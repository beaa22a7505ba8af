# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One loop for all rows; what it costs is counted step by step."""

from dataclasses import replace

import pytest
import torch
from accuracy.build import build
from accuracy.cost import flops
from accuracy.data import Images, load_split
from accuracy.lessons import Taught
from accuracy.network import DEPTH, classifier, save
from accuracy.rows import TABLES, Row, lapp
from accuracy.steps import Eager
from accuracy.training import Recipe, Training

from mmlapp.core.distillation import freeze

RECIPE = Recipe(epochs=5, batch=16)
CPU = torch.device('cpu')
# A forward for every channel.
CURL = pytest.param('curl', marks=pytest.mark.slow)


def trained(row, noise, **options):
    images = Images(*load_split(noise, 'train'), 16, torch.device('cpu'))
    built = build(row, RECIPE.epochs, 0)
    training = Training(row, built, RECIPE, images, 0, **options)
    return training, training.run()


def test_lapp_is_narrow_after_its_phase(noise):
    row = lapp(depth=8, phase=0.5, begin=0.1, target=0.5)
    row_dense = flops(classifier(8, 0))
    training, model = trained(row, noise)
    left = flops(model) / training.built.dense
    assert flops(model) <= 0.5 * row_dense
    assert all(k > 0 for k in training.widths.values())
    # 20 steps: 2 before the phase, 10 of it, 8 after it
    assert training.cost == pytest.approx(12 * training.built.wide + 8 * left)
    assert training.built.dense == row_dense


def test_the_average_follows_the_weights(noise):
    training, model = trained(Row(depth=8, average=1.0), noise)
    assert model is not training.model
    own = training.model.state_dict()
    assert all(
        torch.equal(tensor, own[name])
        for name, tensor in model.state_dict().items()
    )
    training, model = trained(Row(depth=8, average=0.1), noise)
    assert not torch.equal(model.fc.weight, training.model.fc.weight)


def test_a_taught_step_learns_from_the_teacher_alone_where_labels_are_equal():
    student, teacher = classifier(8, 0), freeze(classifier(8, 0))
    images = Images(torch.zeros(4, 3, 32, 32), torch.arange(4), 4, CPU)
    step = Eager(
        student,
        torch.optim.SGD(student.parameters(), 0.1),
        Taught(images, teacher),
        amp=False,
    )
    student.eval()
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    # Equal networks: nothing but a tenth of the cross entropy is left.
    loss = torch.nn.functional.cross_entropy(teacher(images), labels)
    assert step(images, labels).item() == pytest.approx(
        0.1 * loss.item(), rel=1e-4
    )


def test_rates_go_up_for_a_tenth_and_down_to_nothing():
    model = torch.nn.Linear(1, 1)
    optimizer = RECIPE.optimizer(model)
    schedule = RECIPE.schedule(optimizer, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        schedule.step()
    assert rates.index(max(rates)) == 9
    assert max(rates) == pytest.approx(0.4)
    assert rates[-1] < 1e-3 * 0.4
    assert {g['momentum'] for g in optimizer.param_groups} == {0.9}


@pytest.mark.parametrize('name', ['soft', 'adaptive-l1'])
def test_methods_with_a_loss_of_their_own_are_trained(noise, name):
    row = replace(TABLES['family'][name], depth=8, phase=0.5)
    training, model = trained(row, noise)
    dense = flops(classifier(8, 0))
    assert 0.4 * dense < flops(model) <= 0.5 * dense
    assert sum(training.widths.values()) > 0


@pytest.mark.parametrize('name', [CURL, 'cpmc', 'functionality'])
def test_a_trained_network_is_ranked_once_by_a_score(noise, tmp_path, name):
    """Before the second step, which has the small network."""
    save(start := classifier(DEPTH, 1), None, tmp_path / 'dense.pt')
    row, recipe = TABLES['family'][name], replace(RECIPE, epochs=1)
    images = Images(*load_split(noise, 'train'), 16, CPU)
    built = build(row, 1, 0, start=tmp_path / 'dense.pt')
    assert torch.equal(built.model.fc.weight, start.fc.weight)
    training = Training(row, built, recipe, images, 0)
    model = training.run()
    left = flops(model) / built.dense
    assert 0.48 < left <= 0.5
    assert training.cost == pytest.approx(1 + 3 * left)
