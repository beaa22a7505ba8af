# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import PruningError
from mmlapp.core.bypass import BRANCHES
from mmlapp.core.bypass.beside import Bypassed, add_bypass


def layer_with_branch():
    layer = nn.Conv2d(4, 6, 3, padding=1)
    branch = BRANCHES.build('grouped', layer)
    plain = nn.Conv2d(4, 6, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    add_bypass(layer, branch)
    return layer, plain, branch


def test_both_are_added():
    layer, plain, branch = layer_with_branch()
    x = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(layer(x), plain(x) + branch(x))
    assert isinstance(layer, Bypassed)
    assert isinstance(layer, nn.Conv2d)
    assert set(layer.state_dict()) == {'weight', 'bias', 'bypass.conv.weight'}


def test_a_branch_that_is_gone_costs_nothing():
    layer, plain, _ = layer_with_branch()
    layer.bypass = None
    x = torch.rand(2, 4, 5, 5)
    assert torch.equal(layer(x), plain(x))


def test_kept_filters_add_at_their_outputs():
    layer, plain, branch = layer_with_branch()
    x = torch.rand(2, 4, 5, 5)
    whole = plain(x)
    layer.weight = nn.Parameter(layer.weight[[1, 4]])
    layer.bias = nn.Parameter(layer.bias[[1, 4]])
    layer.kept = torch.tensor([1, 4])
    expected = branch(x)
    expected[:, [1, 4]] += whole[:, [1, 4]]
    torch.testing.assert_close(layer(x), expected)


def test_the_input_may_be_given_by_name():
    layer, plain, branch = layer_with_branch()
    x = torch.rand(2, 4, 5, 5)
    assert torch.equal(layer(input=x), branch(x) + plain(x))


def test_more_than_an_input_is_refused():
    layer = nn.ConvTranspose2d(4, 4, 3, stride=2)
    add_bypass(layer, BRANCHES.build('depthwise', layer))
    with pytest.raises(PruningError, match='its input alone, not 1 more'):
        layer(torch.rand(2, 4, 5, 5), [11, 11])


@pytest.mark.parametrize('train', [True, False])
def test_a_branch_is_in_the_mode_of_its_layer(train):
    layer = nn.Conv2d(4, 6, 3, padding=1).train(train)
    add_bypass(layer, BRANCHES.build({'type': 'grouped', 'norm': True}, layer))
    assert {module.training for module in layer.modules()} == {train}
