# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.checkpoints.reading import load_checkpoint
from mmlapp.engine.checkpoints.weights import (
    check_state_dict,
    check_weights,
    load_weights,
)

NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(
    ('entries', 'text'),
    [
        ([1], 'here is a list: expected tensors by name'),
        ({3: torch.ones(1)}, 'an entry named 3: expected a text'),
        ({'a': 1.5}, 'here: a is of type float, expected a dense tensor'),
        ({'a': None}, 'a is of type NoneType'),
        ({'a': torch.eye(2).to_sparse()}, 'a is a sparse or quantized'),
        (
            {
                'a': torch.quantize_per_tensor(
                    torch.ones(2), 1.0, 0, torch.qint8
                )
            },
            'a is a sparse or quantized',
        ),
        ({'a': torch.ones(2, device='meta')}, 'a is a tensor without values'),
        (
            {'a': torch.ones(1).expand(10**6, 10**6)},
            r'a is \(1000000, 1000000\) elements of a smaller storage',
        ),
    ],
)
def test_what_is_no_state_dict(entries, text):
    with pytest.raises(PruningError, match=text):
        check_state_dict(entries, 'here')


def test_views_are_whole_tensors():
    whole = torch.arange(12.0).reshape(3, 4)
    views = {
        'a': whole.T,
        'b': whole[1:, ::2],
        'c': whole[0, 0],
        'd': whole[:0],
    }
    check_state_dict({**views, **nn.BatchNorm2d(3).state_dict()}, 'here')


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer('mask', torch.tensor([0.0, -INF]))


def test_weights_of_the_model_itself_fit():
    check_weights(
        Masked(), {**Masked().state_dict(), 'another': torch.ones(1)}
    )


@pytest.mark.parametrize('kind', [torch.float16, torch.float64, torch.int64])
def test_another_type_would_be_rounded(kind):
    weights = {'norm.bias': torch.ones(2, dtype=kind)}
    with pytest.raises(PruningError, match=f'norm.bias in {kind}, .*float32'):
        check_weights(Masked(), weights)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('norm.weight', [1, NAN]),
        ('norm.running_var', [INF, 1]),
        ('mask', [-INF, -INF]),
        ('mask', [0, INF]),
        ('mask', [NAN, -INF]),
        ('mask', [-INF]),
    ],
)
def test_values_that_are_not_finite(name, value):
    with pytest.raises(PruningError, match=f'in {name} that are not finite'):
        check_weights(Masked(), {name: torch.tensor(value)})


def test_all_weights_are_loaded():
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    load_weights(model, other.state_dict(), 'here')
    assert torch.equal(model.weight, other.weight)


@pytest.mark.parametrize(
    ('entries', 'text'),
    [
        (None, 'here is a NoneType: expected tensors by name'),
        ({}, 'here does not fit .*Missing key.* "weight"'),
        (
            {**nn.Linear(2, 3).state_dict(), 'c': torch.ones(1)},
            'Unexpected.* "c"',
        ),
        ({'weight': torch.ones(3, 3)}, 'here does not fit'),
        ({'bias': torch.tensor([1, NAN, 1])}, 'in bias that are not finite'),
    ],
)
def test_weights_that_do_not_fit(entries, text):
    with pytest.raises(PruningError, match=text):
        load_weights(nn.Linear(2, 3), entries, 'here')


class Levels(nn.Module):
    """A head that shares its convolution, as those of detectors do."""

    def __init__(self):
        super().__init__()
        conv = nn.Conv2d(2, 2, 1)
        self.levels = nn.ModuleList(
            nn.Sequential(conv, nn.BatchNorm2d(2)) for _ in range(2)
        )


def test_two_names_of_one_tensor_have_one_value(tmp_path):
    model, path = Levels(), tmp_path / 'a.pth'
    torch.save({'state_dict': Levels().state_dict()}, path)
    weights = load_checkpoint(path)['state_dict']
    load_weights(model, weights, 'here')
    # A file keeps them one; somebody who changes one has two.
    first, last = (f'levels.{i}.0.weight' for i in range(2))
    weights[first] = weights[last] + 1
    text = rf'different values in {first} and {last}, which are one'
    with pytest.raises(PruningError, match=text):
        load_weights(model, weights, 'here')
    # The last one would win, without a word.
    model.load_state_dict(weights)
    assert torch.equal(model.state_dict()[first], weights[last])
