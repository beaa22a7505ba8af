# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Weights that are pulled, and an optimizer that does not know them."""

import warnings

import pytest
import torch

from mmlapp.core import PruningWarning
from mmlapp.core.methods.movement import Movement


def looks(*states, pull=1.0):
    """Texts of all warnings, of one weight that takes these values."""
    movement = Movement('admm')
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        for state in states:
            movement.look([state], [torch.full_like(state, pull)])
    assert all(w.category is PruningWarning for w in found)
    return [str(w.message) for w in found]


def test_the_last_bit_of_one_entry_is_a_move():
    weight = torch.rand(64, 64) + 1
    moved = weight.clone()
    moved[3, 5] = torch.nextafter(moved[3, 5], torch.tensor(9.0))
    assert not looks(weight, moved)
    (text,) = looks(weight, weight.clone())
    assert text.startswith('method admm: 1 of 1 parameters that it pulls')


def test_without_a_pull_it_may_rest():
    assert not looks(torch.ones(2), torch.ones(2), pull=0.0)


def test_where_nothing_learns_any_more_nothing_is_said():
    movement = Movement('admm')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        movement.look([torch.ones(2)], [torch.ones(2)])
        movement.look([], [])
        movement.look([], [])


def test_the_first_look_has_nothing_to_compare_with():
    movement = Movement('admm')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for _ in range(2):
            movement.look([torch.ones(2)], [torch.ones(2)])
            movement.begin()
    movement.look([torch.ones(2)], [torch.ones(2)])
    with pytest.warns(PruningWarning):
        movement.look([torch.ones(2)], [torch.ones(2)])
