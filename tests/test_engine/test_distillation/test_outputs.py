# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.distillation.outputs import Outputs, find_module


class Net(nn.Module):
    """A backbone of two levels, and a head that counts its calls."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.head, self.times, self.calls = nn.Linear(4, 2), times, 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = self.backbone(inputs)
        for _ in range(self.times):
            found = self.head(inputs)
        self.calls += 1
        return found


def test_outputs_are_those_of_the_modules() -> None:
    net, images = Net(), torch.randn(2, 3)
    outputs = Outputs(net, ['head', 'backbone.0'], 'the student')
    outputs.begin()
    result = net(images)
    found = outputs.end()
    torch.testing.assert_close(found['head'][0], result)
    torch.testing.assert_close(found['backbone.0'][0], net.backbone[0](images))


def test_what_is_changed_in_place_behind_a_module_stays() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
    images, weight = torch.randn(2, 3), torch.tensor([[1.0], [-2.0]])
    outputs = Outputs(net, ['0'], 'the student')
    outputs.begin()
    net(images)
    (found,) = outputs.end()['0']
    expected = net[0](images)
    assert (expected < 0).any()
    torch.testing.assert_close(found, expected)
    # And learns as if nothing stood behind it.
    slopes = [
        torch.autograd.grad((weight * each).sum(), net[0].weight)[0]
        for each in (found, expected)
    ]
    torch.testing.assert_close(*slopes)


def test_tensors_in_containers_are_found_in_order() -> None:
    net = nn.Module()
    net.neck = nn.Identity()
    maps = [torch.ones(1), torch.ones(2), torch.ones(3)]
    outputs = Outputs(net, ['neck'], 'the student')
    found = outputs.of(lambda: net.neck((maps[0], {'a': maps[1:], 'b': None})))
    assert [each.shape[0] for each in found['neck']] == [1, 2, 3]


def test_a_forward_is_run_as_far_as_needed() -> None:
    net = Net()
    outputs = Outputs(net, ['backbone'], 'the teacher')
    assert outputs.of(lambda: net(torch.randn(2, 3)))['backbone']
    assert net.calls == 0
    outputs.begin()
    net(torch.randn(2, 3))
    assert net.calls == 1


def test_what_tries_one_way_after_the_other_does_not_go_on() -> None:
    net = Net()
    outputs = Outputs(net, ['backbone'], 'the teacher')

    def forward() -> None:
        for _ in range(2):
            try:
                net(torch.randn(2, 3))
            except Exception:
                continue

    assert outputs.of(forward)['backbone']


def test_nothing_is_kept_outside() -> None:
    net = Net()
    outputs = Outputs(net, ['head'], 'the student')
    net(torch.randn(2, 3))
    assert outputs._found is None
    outputs.remove()
    assert not net.head._forward_hooks


def test_a_copy_notes_nothing() -> None:
    net = Net()
    outputs = Outputs(net, ['head'], 'the student')
    twin = copy.deepcopy(net)
    outputs.begin()
    twin(torch.randn(2, 3))
    with pytest.raises(PruningError, match='ran 0 times'):
        outputs.end()


@pytest.mark.parametrize('times', [0, 2])
def test_a_module_that_does_not_run_once_is_refused(times: int) -> None:
    net = Net()
    outputs = Outputs(net, ['head'], 'the student')
    outputs.begin()
    for _ in range(times):
        net.head(torch.randn(2, 4))
    with pytest.raises(PruningError, match=rf"losses='head'.*{times} times"):
        outputs.end()


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('haed', r"losses='haed': the student, Net.*mean head\?.*backbone"),
        ('', r"losses='': the student, Net.*children are backbone, head"),
    ],
)
def test_an_unknown_module_is_named(name: str, text: str) -> None:
    with pytest.raises(PruningError, match=text):
        find_module(Net(), name, 'the student')
