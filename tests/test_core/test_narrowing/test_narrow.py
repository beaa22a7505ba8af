# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
from itertools import product

import pytest
import torch
from torch import nn

from mmlapp.core import ChannelPlan, attach, narrow
from mmlapp.core.narrowing.narrow import detach


def test_it_works_in_place_and_returns_the_model(planned):
    model, plan, _ = planned()
    assert narrow(model, plan) is model


def test_nothing_of_the_pruning_is_left(planned, make):
    model, plan, _ = planned()
    narrow(model, plan)
    plain = make()
    assert [type(m) for m in model.modules()] == [
        type(m) for m in plain.modules()
    ]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert not model._forward_pre_hooks
    assert not any('_masks' in vars(m) for m in model.modules())


def test_attributes_follow(planned):
    model, plan, _ = planned()
    narrow(model, plan)
    assert repr(model.b) == repr(nn.Conv2d(4, 4, 3, padding=1))
    assert repr(model.norm) == repr(nn.BatchNorm2d(4))
    assert model.norm.running_var.shape == (4,)


@pytest.mark.parametrize(
    ('kind', 'unit'),
    [
        (None, 'channels'),
        *product(('depthwise', 'pointwise'), ('channels', 'filters')),
    ],
)
def test_a_plan_and_a_state_dict_restore_the_network(
    planned, make, image, kind, unit, tmp_path
):
    model, plan, masked = planned(kind, unit)
    narrow(model, plan)
    plan.save(tmp_path / 'plan.json')
    torch.save(model.state_dict(), tmp_path / 'slim.pth')

    fresh = narrow(make(), ChannelPlan.load(tmp_path / 'plan.json'))
    fresh.load_state_dict(torch.load(tmp_path / 'slim.pth'))
    with torch.no_grad():
        torch.testing.assert_close(fresh(image), masked)


def test_a_narrowed_network_trains(planned, image):
    model, plan, _ = planned()
    narrow(model, plan).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model.b.weight.detach().clone()
    model(image).square().mean().backward()
    optimizer.step()
    assert (model.b.weight != before).all()


def test_frozen_parameters_stay_frozen(planned):
    model, plan, _ = planned()
    model.a.requires_grad_(False)
    narrow(model, plan)
    assert not model.a.weight.requires_grad
    assert model.b.weight.requires_grad


def test_memory_format_is_kept(planned, image):
    model, plan, masked = planned()
    model.to(memory_format=torch.channels_last)
    narrow(model, plan)
    assert model.b.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(image), masked)


def test_hooks_of_the_user_stay(planned, image):
    calls = []
    model, plan, _ = planned()
    model.register_forward_hook(lambda *args: calls.append(1))
    model.register_forward_pre_hook(lambda *args: calls.append(2))
    narrow(model, plan)(image)
    assert calls == [2, 1]


def test_detach_leaves_the_dense_network(planned, make, image):
    model, _, _ = planned()
    state = {
        k: v.clone()
        for k, v in model.state_dict().items()
        if not k.startswith('pruner')
    }
    detach(model)
    plain = make()
    plain.load_state_dict(state)
    assert torch.equal(model(image), plain(image))
    assert type(model.norm) is nn.BatchNorm2d


def test_a_plan_that_keeps_all_changes_nothing(make, image):
    model = make()
    pruner = attach(model, image)
    expected = model(image)
    pruner.set_mask(torch.ones_like(pruner.mask))
    plan = pruner.plan()
    assert plan.slices == {}
    assert torch.equal(narrow(model, plan)(image), expected)


def test_copies_are_independent(planned, image):
    model, plan, masked = planned()
    narrow(copy.deepcopy(model), plan)
    assert torch.equal(model(image), masked)
