# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import PruningError
from mmlapp.core.analysis.ways import Way, as_ways, in_its_mode, kept


def test_functions_get_the_names_of_their_places():
    named = Way(len, "mode='loss'")
    ways = as_ways([print, named])
    assert [way.name for way in ways] == ['also[0]', "mode='loss'"]
    assert ways[1] is named


def test_what_is_no_function():
    with pytest.raises(PruningError, match=r'also\[1\]=Tensor: expected'):
        as_ways([print, torch.rand(2)])


@pytest.mark.parametrize('train', [False, True])
def test_a_way_runs_in_its_mode(train):
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3))
    model[0].training = False

    def run():
        assert not torch.is_grad_enabled()
        return [module.training for module in model.modules()]

    # The network itself, the dropout, the norm.
    assert in_its_mode(model, Way(run, '', train))() == [train, train, False]
    assert [m.training for m in model.modules()] == [True, False, True]


@pytest.mark.parametrize('error', [None, ZeroDivisionError])
def test_a_network_is_put_back(error):
    model = nn.BatchNorm2d(3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    try:
        with kept(model), torch.no_grad():
            model.weight.mul_(torch.rand(3))
            model.running_mean.data = torch.ones(3)
            model.num_batches_tracked += 1
            model.counter = 1
            if error:
                raise error
    except ZeroDivisionError:
        pass
    assert not hasattr(model, 'counter')
    assert torch.equal(torch.get_rng_state(), random)
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
