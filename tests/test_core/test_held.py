# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import torch
from torch import nn

from mmlapp.core.held import holders_in, place_of, replace_held


def test_new_tensors_take_the_place_of_old_ones():
    model = nn.Linear(4, 2)
    old, other = model.weight, model.bias
    model.mine = {'w': old, 'b': [other, 'text'], 'alias': old.detach()}
    model.untouched, model.seen = (other, 1), old.data
    mine, untouched = model.mine, model.untouched
    new = model.weight = nn.Parameter(torch.rand(2, 3))
    replace_held(holders_in(model.modules()), {place_of(old): new})
    assert model.mine['w'] is new
    assert model.mine['b'][0] is other
    # An alias shares the values of the new one.
    assert model.mine['alias'].data_ptr() == new.data_ptr()
    assert not model.mine['alias'].requires_grad
    assert model.seen.data_ptr() == new.data_ptr()
    assert model.untouched is untouched
    # The old container is as it was: a trial puts it back.
    assert mine['w'] is old


def test_a_view_of_another_shape_is_another_tensor():
    weight = torch.rand(4, 2)
    assert place_of(weight) == place_of(weight.detach())
    assert place_of(weight) != place_of(weight[:2])
    assert place_of(weight) != place_of(weight.t())


def test_what_does_something_when_it_is_read_is_left_alone():
    class Lazy(dict):
        def values(self):
            raise RuntimeError

    model = nn.Linear(4, 2)
    before = model.settings = Lazy(w=model.weight)
    new = nn.Parameter(torch.rand(2, 3))
    replace_held(holders_in(model.modules()), {place_of(model.weight): new})
    assert model.settings is before
