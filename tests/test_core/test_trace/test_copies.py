# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mmlapp.core import analyse, attach, narrow
from mmlapp.core.trace.copies import Copy, find_copies


class Student(nn.Module):
    """A network with a twin that its example does not run."""

    def __init__(self, conv, wrap):
        super().__init__()
        self.net = nn.Sequential(
            conv(3, 8), nn.BatchNorm2d(8), conv(8, 8, groups=8), conv(8, 5)
        )
        self.twin = wrap(self.net)

    def forward(self, x):
        return self.net(x)


def frozen(net):
    return copy.deepcopy(net).requires_grad_(False)


def rebuilt(net):
    """As two models of one config: other values."""
    twin = frozen(net)
    for parameter in twin.parameters():
        parameter.normal_()
    return twin


def in_a_list(net):
    return nn.ModuleList([nn.Flatten(), frozen(net)])


@pytest.mark.parametrize(
    ('wrap', 'name'),
    [
        (frozen, 'twin'),
        (rebuilt, 'twin'),
        (in_a_list, 'twin.1'),
        (AveragedModel, 'twin.module'),
    ],
)
def test_a_copy_is_narrowed_with_its_original(conv, image, wrap, name):
    model = Student(conv, wrap).double()
    found = analyse(model, image)
    assert found.reach.copies == [Copy(name, 'net')]
    pruner = attach(model, image, analysis=found)
    assert [(info.name, info.size) for info in pruner.groups] == [('net.0', 8)]
    # The original alone is scored.
    assert [layer.name for layer in pruner.groups[0].layers] == [
        'net.0',
        'net.2',
    ]
    pruner.set_mask(torch.arange(8) % 3 != 0)
    twin = model.get_submodule(name).eval()
    pruner.active = True
    masked = twin(image)
    narrow(model, pruner.plan())
    torch.testing.assert_close(twin(image), masked)
    shapes = [
        [tensor.shape for tensor in part.state_dict().values()]
        for part in (model.net, twin)
    ]
    assert shapes[0] == shapes[1]
    assert twin[0].out_channels == twin[2].groups == 5


def test_an_average_goes_on_after_narrowing(conv, image):
    """It holds its parameters in a container of its own."""
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    model = Student(conv, lambda net: AveragedModel(net, multi_avg_fn=average))
    pruner = attach(model, image.float())
    pruner.set_mask(torch.arange(8) < 3)
    narrow(model, pruner.plan())
    model.twin.update_parameters(model.net)
    with torch.no_grad():
        model.net[0].weight.add_(1)
    model.twin.update_parameters(model.net)
    torch.testing.assert_close(
        model.twin.module[0].weight, model.net[0].weight - 0.5
    )


def modules(**parts):
    return nn.ModuleDict(parts)


def test_frozen_stages_are_no_copies():
    """Layers of one network, of which the first are not trained."""
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    model[0].requires_grad_(False)
    assert find_copies(model, ['', '0', '1']) == []
    nested = modules(a=nn.ModuleList([model[0]]), b=nn.ModuleList([model[1]]))
    assert find_copies(nested, ['a.0', 'b.0']) == []


def test_among_equals_that_with_the_values_is_followed():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    model = modules(a=first, b=second, c=frozen(second))
    assert find_copies(model, ['a', 'b']) == [Copy('c', 'b')]
    with torch.no_grad():
        model['c'].weight.zero_()
    assert find_copies(model, ['a', 'b']) == []


class Teacher(Student):
    """What is used is the average, and not what is trained."""

    def forward(self, x):
        return self.twin(x)


def test_the_one_that_is_trained_is_the_original(conv, image, count_macs):
    model = Teacher(conv, frozen).double()
    # Its norm carries the mask.
    found = analyse(model, image, scope='net')
    assert found.reach.copies == [Copy('twin', 'net')]
    assert [g.name for g in found.groups.prunable] == ['net.0']
    assert found.flops == count_macs(model, image)
    pruner = attach(model, image, analysis=found)
    assert [layer.name for layer in pruner.groups[0].layers] == [
        'net.0',
        'net.2',
    ]
    assert pruner.groups[0].layers[0].norm is model.net[1]
    assert pruner.groups[0].layers[0].shift == 'bias'
    pruner.set_mask(torch.arange(8) < 4)
    narrow(model, pruner.plan())
    assert model.net[0].out_channels == model.twin[0].out_channels == 4
    model(image)


@pytest.mark.parametrize(
    'other', [nn.Linear(4, 5), nn.Linear(4, 4, bias=False), nn.Flatten()]
)
def test_other_modules_are_no_copies(other):
    model = modules(a=nn.Linear(4, 4), b=other.requires_grad_(False))
    assert find_copies(model, ['a']) == []


def test_what_follows_nothing_says_who(conv, image):
    model = Student(conv, frozen)
    found = analyse(model, image.float(), unused='twin')
    assert found.reach.copies == found.reach.left == []
    assert {m.site.module for m in found.groups.prunable[0].members} == {
        f'net.{i}' for i in range(4)
    }


class Attention(nn.Module):
    """Its layer norm computes over channels, in the twin as well."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 4)
        )
        self.twin = frozen(self.net)

    def forward(self, x):
        return self.net(x)


def test_norms_over_channels_see_the_living_ones_in_a_copy_too():
    model, x = Attention(), torch.rand(5, 3)
    pruner = attach(model, x)
    pruner.set_mask(torch.arange(8) % 2 == 0)
    pruner.active = True
    masked = model.twin(x)
    narrow(model, pruner.plan())
    torch.testing.assert_close(model.twin(x), masked)
