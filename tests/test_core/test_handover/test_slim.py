# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is written; what is made of it is in ``test_load_slim.py``."""

import resource

import pytest
import torch

from mmlapp.core import (
    PruningError,
    attach,
    fuse,
    load_slim,
    narrow,
    save_slim,
)
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


@pytest.mark.parametrize(
    ('plans', 'said'),
    [('plan.json', "plans='plan.json'"), (None, 'NoneType'), ([1], 'list')],
)
def test_what_is_no_plan(slim, tmp_path, plans, said):
    model, _, _ = slim()
    with pytest.raises(PruningError, match=f'{said}.*expected a ChannelPlan'):
        save_slim(model, tmp_path / 'slim.pth', plans)
    assert not list(tmp_path.iterdir())


def test_buffers_that_no_state_dict_has(net, conv, image, tmp_path):
    """They are narrowed, and come from the dense network."""

    def build():
        model = net(
            lambda m, x: m.b(m.a(x) * m.scale), a=conv(3, 8), b=conv(8, 4)
        )
        scale = torch.linspace(1, 2, 8, dtype=torch.float64)
        model.register_buffer('scale', scale.view(8, 1, 1), persistent=False)
        return model.eval()

    model = build()
    pruner = attach(model, image)
    mask = torch.arange(len(pruner.gate)) % 2 == 0
    pruner.set_mask(mask)
    with torch.no_grad():
        masked = model(image)
    plan = pruner.plan()
    assert plan.slices['scale']
    save_slim(narrow(model, plan), tmp_path / 'slim.pth', plan)
    found = load_slim(build(), tmp_path / 'slim.pth')
    assert found.scale.shape == (4, 1, 1)
    torch.testing.assert_close(found(image), masked)
    # That of a dense network is still told apart.
    with pytest.raises(PruningError, match='not that of the network'):
        slim_state(build(), [plan])


def test_what_is_no_tensor_is_named(tmp_path):
    class Versioned(torch.nn.Linear):
        def get_extra_state(self):
            return {'version': 3}

        def set_extra_state(self, state):
            pass

    model = torch.nn.Sequential(Versioned(3, 2))
    with pytest.raises(PruningError, match=r'has 0\._extra_state of type dic'):
        save_slim(model, tmp_path / 'slim.pth')
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize('take', [lambda m: m.backbone, torch.nn.Sequential])
def test_masks_of_a_part_or_of_what_is_wrapped(make, image, tmp_path, take):
    """What a part stores is not what it computes with, and nothing tells."""
    model = make()
    pruner = attach(model, image)
    pruner.set_mask(torch.arange(len(pruner.gate)) % 2 == 0)
    with pytest.raises(PruningError, match=r'has masks: narrow.* is a part'):
        save_slim(take(model), tmp_path / 'part.pth')
    with pytest.raises(PruningError, match='has masks: narrow'):
        fuse(take(model), image)
    assert not list(tmp_path.iterdir())


def test_masks_come_off_first(make, image, tmp_path):
    model = make()
    pruner = attach(model, image)
    pruner.set_mask(torch.ones(len(pruner.gate), dtype=torch.bool))
    with pytest.raises(PruningError, match='the network has masks: narrow'):
        save_slim(model, tmp_path / 'slim.pth', pruner.plan())
    assert not list(tmp_path.iterdir())
