# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is found does not depend on what the example contains."""

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError, analyse
from mmlapp.core.analysis.inputs import varied


class Attention(nn.Module):
    """Its scale follows its width, which alike positions do not show."""

    def __init__(self, first):
        super().__init__()
        self.first, self.qkv = first, nn.Linear(8, 24)
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x)
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(-2, -1) * x.shape[-1] ** -0.5
        return self.last(x + scores.softmax(-1) @ v)


FIRST = {
    'numbers': (lambda: nn.Linear(3, 8), torch.rand(2, 5, 3)),
    'words': (
        lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 8)),
        torch.arange(5).expand(2, 5),
    ),
}


def found(first, example):
    torch.manual_seed(0)
    groups = analyse(Attention(first()).double(), example).groups
    return {group.name: str(group.frozen) for group in groups.items}


@pytest.mark.parametrize('name', FIRST)
def test_an_example_without_contents_hides_nothing(name):
    first, example = FIRST[name]
    if example.is_floating_point():
        example = example.double()
    seen = found(first, example)
    # Narrower queries would be scaled otherwise.
    assert any('would compute something else' in r for r in seen.values())
    assert found(first, torch.zeros_like(example)) == seen


def test_what_has_contents_is_the_very_example():
    args = torch.rand(2, 3), torch.zeros(1), torch.ones(3, dtype=torch.bool)
    more = torch.full((2, 2), 16), {'scale': torch.tensor(2.0)}
    assert varied(nn.Identity(), (*args, *more)) == (*args, *more)
    assert varied(nn.Identity(), args)[0] is args[0]


def test_what_is_drawn_is_like_what_was_given():
    x = torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    x = x.to(memory_format=torch.channels_last)
    (first,), (second,) = (varied(nn.Identity(), (x.detach(),)) for _ in 'ab')
    assert first.equal(second)
    assert first.unique().numel() > 9
    assert first.dtype is torch.bfloat16
    assert first.stride() == x.stride()
    (leaf,) = varied(nn.Identity(), (torch.ones(3, requires_grad=True),))
    assert leaf.requires_grad
    assert not x.any()


class Picky(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.seen = function, 0

    def forward(self, x):
        self.seen += 1
        return self.function(x)


def only_zeros(x):
    assert not x.any()
    return x


TAKES_NO_OTHER = {
    'fails': only_zeros,
    'other shape': lambda x: x[x == 0],
    'not finite': lambda x: 1 / (x == 0).float(),
    'no tensors': lambda x: [x] * int((x == 0).all()),
}


@pytest.mark.parametrize('name', TAKES_NO_OTHER)
def test_a_network_that_takes_no_other_gets_what_was_given(name):
    model, x = Picky(TAKES_NO_OTHER[name]), torch.zeros(2, 3)
    assert varied(model, (x,))[0] is x
    assert model.seen == 0  # and is as it was


def test_an_example_that_is_changed_in_place_is_kept():
    x = torch.zeros(2, 3)
    varied(Picky(lambda y: y.add_(1)), (x,))
    assert not x.any()


def test_what_a_user_draws_stays(image):
    model = Picky(torch.nn.functional.dropout)
    model.layer = nn.Conv2d(3, 4, 1)
    state = torch.get_rng_state()
    with pytest.raises(PruningError):
        analyse(model, torch.zeros_like(image))
    assert state.equal(torch.get_rng_state())
