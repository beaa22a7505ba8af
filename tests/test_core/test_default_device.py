# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Who sets another default device gets the same networks."""

import copy
import io
from contextlib import nullcontext

import pytest
import torch
from every_method import EVERY_METHOD
from pruning_steps import task_loss
from torch import nn

from mmlapp.core import attach, fuse, load_slim, narrow, save_slim
from mmlapp.core.default_device import on_cpu

# Nothing that lies there can be looked at, so that a tensor of ours that is
# made there by mistake raises, as it would on a GPU beside one of the CPU.
ELSEWHERE = torch.device('meta')


def test_tensors_are_made_on_the_cpu():
    with ELSEWHERE:
        with on_cpu():
            assert torch.zeros(2).device.type == 'cpu'
        assert torch.zeros(2).is_meta
    with on_cpu():
        assert torch.zeros(2).device.type == 'cpu'


def pruned(dense, images, settings, where, path):
    """A network from attach to its slim file, under a default device."""
    model = copy.deepcopy(dense)
    with where:
        pruner = attach(model, images, **settings)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.05, momentum=0.9, foreach=False
        )
        pruner.prepare(model, [lambda: model(images)])
        pruner.begin({'flops': 0.6}, 6)
        for _ in range(6):
            loss = task_loss(model, images) + pruner.loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pruner.step()
        # To a file and back, in the state of a finished phase.
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        model.load_state_dict(torch.load(file, weights_only=True))
        plan = pruner.plan()
        narrow(model, plan, optimizer)
        save_slim(model, path, plan)
        loaded = load_slim(copy.deepcopy(dense), path)
        fused = fuse(model, images, plan)
    return model, loaded, fused.model, plan


@pytest.mark.parametrize('name', EVERY_METHOD)
def test_a_phase_is_the_same_with_another_default_device(
    make, images, tmp_path, name
):
    settings, dense = EVERY_METHOD[name], make()
    found, expected = (
        pruned(dense, images, settings, where, tmp_path / f'{number}.pth')
        for number, where in enumerate((ELSEWHERE, nullcontext()))
    )
    assert found[3] == expected[3]
    for mine, other in zip(found[:3], expected[:3], strict=True):
        states = mine.state_dict(), other.state_dict()
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            assert value.device.type == 'cpu'
            assert torch.equal(value, states[1][key]), key


def test_branches_too(make, images, tmp_path):
    settings = dict(method='uniform', bypass='repvgg')
    model, *_ = pruned(
        make(), images, settings, ELSEWHERE, tmp_path / 'slim.pth'
    )
    assert isinstance(model, nn.Module)
    assert all(v.device.type == 'cpu' for v in model.state_dict().values())
