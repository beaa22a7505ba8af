# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import attach, narrow
from mmlapp.core.bypass import BRANCHES
from mmlapp.core.bypass.normed import _pairs
from mmlapp.core.errors import PruningError

KINDS = ['depthwise', 'pointwise', 'grouped']
UNIT_NAMES = ['filters', 'channels']


@pytest.mark.parametrize('unit', UNIT_NAMES)
@pytest.mark.parametrize('keep', [0.2, 0.5])
@pytest.mark.parametrize('kind', KINDS)
def test_a_branch_with_a_norm(plain, normed, image, agree, kind, unit, keep):
    """Masked, narrowed, counted: with the layer and with a norm behind."""
    bypass = dict(type=kind, norm=True)
    for model in (plain(), normed()):
        result = agree(model, image, keep=keep, bypass=bypass, unit=unit)
        assert any('bypass.norm' in n for n in result.slim.state_dict())


@pytest.mark.parametrize('kind', ['depthwise', 'repvgg'])
@pytest.mark.parametrize('setting', [dict(norm='no'), dict(merge=None)])
def test_choices_are_truth_values(conv, kind, setting):
    """Text would be true, whatever it says."""
    with pytest.raises(PruningError, match='expected True or False'):
        BRANCHES.build(dict(type=kind, **setting), conv(4, 4))


def test_a_norm_that_is_left_alone_still_shifts(net, conv, image, agree):
    """Depthwise pairs that lost one end each: the norm's shift stays."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x).relu())),
        a=conv(3, 4),
        b=conv(4, 4),
        c=conv(4, 5),
    )
    bypass = dict(type='depthwise', norm=True)
    pruner = attach(model.eval(), image, bypass=bypass)
    with torch.no_grad():
        model.b.bypass.norm.bias.normal_()
        model.b.bypass.norm.running_mean.normal_()
    kept = torch.tensor([0, 1, 6, 7])  # two of a, the other two of b
    pruner.set_mask(torch.isin(torch.arange(8), kept))
    with torch.no_grad():
        masked = model(image)
        slim = narrow(model, pruner.plan())
        torch.testing.assert_close(slim(image), masked)
    assert slim.b.bypass.norm.bias.any()


SHAPES = [(8, 8, 8), (8, 16, 8), (12, 8, 4), (6, 9, 3)]


@pytest.mark.parametrize(('inputs', 'outputs', 'groups'), SHAPES)
def test_pairs_by_loops(inputs, outputs, groups):
    a, b = torch.arange(inputs) + 100, torch.arange(outputs)
    expected = {
        (i + 100, o)
        for i in range(inputs)
        for o in range(outputs)
        if i // (inputs // groups) == o // (outputs // groups)
    }
    first, second = _pairs(groups, a, b)
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected


@pytest.fixture
def depthwise():
    return BRANCHES.build('depthwise', nn.Conv2d(8, 8, 3, padding=1)).eval()


def test_what_keeps_all_is_left_alone(depthwise):
    conv = depthwise.conv
    branch, heirs = depthwise.narrow(
        torch.ones(8).bool(), torch.ones(8).bool()
    )
    assert branch is depthwise
    assert branch.conv is conv
    assert not heirs


def test_a_plain_rest_is_a_plain_convolution(depthwise):
    """The same channels at both ends of a depthwise bypass."""
    kept = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0]).bool()
    weight = depthwise.conv.weight
    branch, heirs = depthwise.narrow(kept, kept)
    assert isinstance(branch.conv, nn.Conv2d)
    assert branch.conv.groups == 4
    torch.testing.assert_close(branch.conv.weight, weight[kept])
    assert [heir.new for heir in heirs[weight]] == [branch.conv.weight]


def test_the_mode_is_kept(depthwise):
    kept = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0]).bool()
    branch, _ = depthwise.narrow(kept, kept.roll(2))
    assert not branch.conv.training


def test_nothing_is_left(depthwise):
    first = torch.arange(8) < 4
    branch, heirs = depthwise.narrow(first, ~first)
    assert branch is None
    assert list(heirs.values()) == [[]]
