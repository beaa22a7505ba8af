# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is written; what is made of it is in ``test_load_slim.py``."""

import resource

import pytest
import torch

from mmlapp.core import PruningError, attach, save_slim
from mmlapp.core.handover.slim import FOLDS, slim_state
from mmlapp.core.plan.carried import KEY, from_entry, read_plans_entry


def test_what_a_state_holds(slim):
    """Tensors of its own, the plans and the folds beside the weights."""
    model, plan, _ = slim()
    state = slim_state(model, [plan])
    assert set(state) == {*model.state_dict(), KEY}
    assert read_plans_entry(state[KEY]) == (plan,)
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value)
        assert state[name].data_ptr() != value.data_ptr()
    folded = slim_state(model, folds=[('a', 'norm')])
    assert from_entry(folded[FOLDS]) == [['a', 'norm']]


def test_a_plan_of_another_network(slim, make):
    _, plan, _ = slim()
    with pytest.raises(PruningError, match='not that of the network: it ke'):
        slim_state(make(), [plan])


def test_a_full_disk(slim, tmp_path):
    model, plan, _ = slim()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(PruningError, match=r'written \(File too'):
            save_slim(model, tmp_path / 'slim.pth', plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_masks_come_off_first(make, image, tmp_path):
    model = make()
    pruner = attach(model, image)
    pruner.set_mask(torch.ones(len(pruner.gate), dtype=torch.bool))
    with pytest.raises(PruningError, match='the network has masks: narrow'):
        save_slim(model, tmp_path / 'slim.pth', pruner.plan())
    assert not list(tmp_path.iterdir())
