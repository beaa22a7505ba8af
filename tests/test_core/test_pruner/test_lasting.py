# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Several backwards through one value, against autograd through its graph."""

import gc
import weakref

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mmlapp.core.pruner.lasting import lasting, leaves_of


@pytest.fixture
def leaves():
    return [
        torch.randn(5, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    ]


def masks(scale, shift, rate):
    """Saves what it needs, uses a leaf twice, and one not at all."""
    return (scale * shift.detach() + rate * scale.square()).sigmoid()


def run(read, x):
    return (read(x).square() + read(3 * x)).sum()


@pytest.mark.parametrize(
    'way',
    [
        lambda f, x: f(x),
        lambda f, x: checkpoint(f, x, use_reentrant=False),
        lambda f, x: checkpoint(f, x, use_reentrant=True),
    ],
    ids=['plain', 'checkpointed', 'reentrant'],
)
def test_gradients_are_those_of_autograd(leaves, way):
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    value = masks(*leaves)
    used = x, leaves[0], leaves[2]
    expected = torch.autograd.grad(run(lambda y: value * y, x), used)
    value = lasting(masks(*leaves))
    found = run(lambda y: way(lambda z: value * z, y), x)
    found.backward()
    for leaf, gradient in zip(used, expected, strict=True):
        torch.testing.assert_close(leaf.grad, gradient)
    assert leaves[1].grad is None


def test_two_backwards(leaves):
    value = lasting(masks(*leaves))
    (once,) = torch.autograd.grad(value.sum(), leaves[:1])
    (twice,) = torch.autograd.grad(2 * value.sum(), leaves[:1])
    assert torch.equal(twice, 2 * once)
    assert leaves[0].grad is None


def test_gradients_of_gradients(leaves):
    def penalty(value):
        (inner,) = torch.autograd.grad(
            value.square().sum(), leaves[0], create_graph=True
        )
        return inner.square().sum()

    used = leaves[0], leaves[2]
    expected = torch.autograd.grad(penalty(masks(*leaves)), used)
    found = torch.autograd.grad(penalty(lasting(masks(*leaves))), used)
    torch.testing.assert_close(found, expected)


def test_what_changed_in_between_is_noticed(leaves):
    value = lasting(masks(*leaves))
    with torch.no_grad():
        leaves[0] += 1
    with pytest.raises(RuntimeError, match='modified by an inplace'):
        value.sum().backward()


def test_without_a_graph_it_is_the_tensor_itself(leaves):
    with torch.no_grad():
        value = masks(*leaves)
    assert lasting(value) is value
    assert lasting(leaves[0]) is leaves[0]


def test_each_leaf_once(leaves):
    found = leaves_of(masks(*leaves) + leaves[2])
    assert sorted(map(id, found)) == sorted(map(id, leaves[::2]))


def test_the_graph_goes_with_the_last_who_needs_it(leaves):
    value = masks(*leaves)
    known = weakref.ref(value)
    held = lasting(value).square()
    del value
    gc.collect()
    assert known() is not None
    del held
    assert known() is None
