# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.models.inputs import (
    example_batch,
    fresh,
    shape_text,
)
from mmlapp.registry import FUNCTIONS


@pytest.fixture
def model():
    return nn.Conv2d(3, 2, 1)


@pytest.fixture
def register():
    """Registers a function for one test."""
    FUNCTIONS.register_module(module=two_views, name='two_views', force=True)
    yield
    FUNCTIONS.module_dict.pop('two_views')


def two_views(size=2, by_name=False):
    views = [torch.ones(1, 3, size, size), torch.zeros(1, 3, size, size)]
    return dict(inputs=views, labels='none') if by_name else (views, 'none')


def test_the_image_is_always_the_same(model):
    state = torch.get_rng_state()
    (image,) = example_batch(model, [3, 4, 5]).args
    assert image.shape == (1, 3, 4, 5)
    assert 0 <= image.min() < image.max() <= 1
    assert torch.equal(example_batch(model, (3, 4, 5)).args[0], image)
    # Others' random numbers go on.
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('shape', [(7,), (3, 8), (3, 2, 8, 8)])
def test_inputs_of_any_rank(model, shape):
    assert example_batch(model, shape).args[0].shape == (1, *shape)


def test_inputs_with_names(model):
    shapes = dict(rgb=(3, 4, 5), depth=[1, 4, 5])
    (inputs,) = example_batch(model, shapes).args
    assert {k: tuple(v.shape) for k, v in inputs.items()} == {
        'rgb': (1, 3, 4, 5),
        'depth': (1, 1, 4, 5),
    }
    assert not torch.equal(inputs['rgb'][:, :1], inputs['depth'])


def test_the_image_lies_where_the_weights_do(model):
    (image,) = example_batch(model.to('meta'), (3, 4, 5)).args
    assert image.device.type == 'meta'


@pytest.mark.usefixtures('register')
def test_inputs_of_a_users_own(model):
    batch = example_batch(model.to('meta'), dict(type='two_views', size=4))
    views, text = batch.args
    assert (batch.own, text, batch.kwargs) == (True, 'none', {})
    assert [view.shape[-1] for view in views] == [4, 4]
    assert views[0].device.type == 'meta'
    named = example_batch(model, dict(type='two_views', by_name=True))
    assert (named.args, set(named.kwargs)) == ((), {'inputs', 'labels'})


def test_a_function_that_nobody_registered(model):
    with pytest.raises(PruningError, match=r"type.*'mine'.*@FUNCTIONS\.reg"):
        example_batch(model, dict(type='mine'))


def test_a_function_that_returns_no_arguments(model):
    FUNCTIONS.register_module(module=lambda: 3, name='three', force=True)
    with pytest.raises(PruningError, match='returned int, expected'):
        example_batch(model, dict(type='three'))


def test_the_name_of_a_shape():
    assert shape_text(dict(a=(3, 4), b=[5])) == 'a 3x4, b 5'


def test_arguments_are_copied():
    image, sample = torch.ones(2), {'inner': object()}
    copied = fresh(((image,), sample))
    copied[0][0].zero_()
    assert image.sum() == 2
    assert copied[1]['inner'] is not sample['inner']
