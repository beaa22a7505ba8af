# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Networks that other rows go on with."""

import pytest
import torch
from accuracy.build import build
from accuracy.network import classifier, load, save
from accuracy.rows import TABLES, Row, lapp

from mmlapp.core import narrow


def test_a_narrow_network_comes_back_as_it_was(tmp_path):
    model, pruner = (b := build(lapp(target=0.5), 10, 3)).model, b.pruner
    pruner.begin({'flops': 0.5}, steps=1)
    pruner.step()
    plan = pruner.plan()
    narrow(model, plan)
    save(model, plan, tmp_path / 'w' / 'a.pt')
    found, images = load(tmp_path / 'w' / 'a.pt'), torch.rand(2, 3, 32, 32)
    assert torch.equal(found.eval()(images), model.eval()(images))
    row = Row(start='lapp', epochs=0.2)
    built = build(row, 10, 0, start=tmp_path / 'w' / 'a.pt')
    assert built.epochs == 2
    assert built.wide == pytest.approx(0.5, abs=0.02)
    assert built.pruner is None
    assert torch.equal(built.model.eval()(images), found(images))


def test_a_dense_network_needs_no_plan(tmp_path):
    model = classifier(20, 5)
    save(model, None, tmp_path / 'a.pt')
    assert [p.name for p in tmp_path.iterdir()] == ['a.pt']
    state = load(tmp_path / 'a.pt').state_dict()
    assert torch.equal(state['fc.weight'], model.fc.weight)


def test_the_rows_of_few_images_learn_from_each_other():
    rows = TABLES['limited']
    for name in 'lapp', 'curvature':
        assert rows[name].needs == []
        assert rows[f'{name}-distilled'].needs == ['dense']
        assert rows[f'{name}-refined'].needs == ['dense', f'{name}-distilled']
