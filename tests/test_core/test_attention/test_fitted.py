# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Views whose sizes are those of the input, with fewer heads."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from mmlapp.core.attention.fitted import fit_heads

N, LENGTH, HEADS, EACH = 2, 5, 3, 4
DENSE = 24


class Viewed(nn.Module):
    """Views queries ``[N, L, 3 H d]`` as a size of the dense network says."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes, self.heads = sizes, HEADS

    def forward(self, x):
        return x.reshape(*self.sizes)


CASES = {
    'heads': ((N, LENGTH, 3, HEADS, DENSE // HEADS), (3, HEADS, EACH)),
    'all of them': ((N, LENGTH, DENSE), (3 * HEADS * EACH,)),
    'what fits': ((N, LENGTH, 9, EACH), (9, EACH)),
    'as many as fit': ((N, -1, 3, HEADS, DENSE // HEADS), (3, HEADS, EACH)),
    'what is left': ((N, LENGTH, HEADS, -1), (HEADS, 3 * EACH)),
}


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('spelled', ['reshape', 'view', 'torch.reshape'])
def test_views_fit_what_there_is(case, spelled):
    sizes, expected = CASES[case]
    calls = {
        'reshape': lambda self, x: x.reshape(*self.sizes),
        'view': lambda self, x: x.view(self.sizes),
        'torch.reshape': lambda self, x: torch.reshape(x, self.sizes),
    }
    kind = type('Kind', (Viewed,), {'forward': calls[spelled]})
    module = kind(sizes)
    fit_heads(module, HEADS, EACH)
    x = torch.randn(N, LENGTH, 3 * HEADS * EACH)
    torch.testing.assert_close(module(x), x.view(N, LENGTH, *expected))


def test_nothing_else_is_changed():
    """Scores of as many tokens as heads, and views of other modules."""
    module = Viewed((-1, HEADS, 7))
    fit_heads(module, HEADS, EACH)
    assert module(torch.zeros(2, HEADS, 7)).shape == (2, HEADS, 7)
    with pytest.raises(RuntimeError, match='invalid for input'):
        torch.zeros(15).reshape(2, 7)


def test_it_is_copied_traced_exported_and_compiled():
    module = Viewed((N, LENGTH, DENSE))
    fit_heads(module, HEADS, EACH)
    x = torch.randn(N, LENGTH, HEADS * EACH)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it is deprecated
        traced = torch.jit.trace(module, x)
    exported = torch.export.export(module, (x,)).module()
    compiled = torch.compile(module, backend='eager', fullgraph=True)
    for other in (copy.deepcopy(module), traced, exported, compiled):
        torch.testing.assert_close(other(x), x)


class OfItsInput(nn.Module):
    """Its last size is twice that of what comes in."""

    def forward(self, x):
        n, length, c = x.shape
        return x.reshape(n, length, HEADS, 2 * c).flatten(2)


def test_sizes_are_tensors_while_it_is_traced():
    """As ONNX files and TorchScript have them: for any batch."""
    module = OfItsInput()
    fit_heads(module, HEADS, EACH)
    x = torch.randn(3 * N, LENGTH, HEADS * EACH)
    with warnings.catch_warnings():
        warnings.simplefilter('error', torch.jit.TracerWarning)
        warnings.simplefilter('ignore', DeprecationWarning)
        traced = torch.jit.trace(module, x[:N])
    torch.testing.assert_close(traced(x), x)


@pytest.mark.parametrize('scale', [2, 3])
def test_an_export_is_for_any_batch_and_length(scale):
    """Sizes are symbols while it is exported, and stay open."""
    module = OfItsInput()
    fit_heads(module, HEADS, EACH)
    x = torch.randn(scale * N, scale * LENGTH, HEADS * EACH)
    small = x[:N, :LENGTH].contiguous()
    dims = {0: torch.export.Dim('n'), 1: torch.export.Dim('length')}
    exported = torch.export.export(
        nn.Sequential(module), (small,), dynamic_shapes=(dims,)
    )
    torch.testing.assert_close(exported.module()(x), x)


def test_its_class_can_be_pickled():
    module = nn.Identity()
    fit_heads(module, HEADS, EACH)
    again = pickle.loads(pickle.dumps(module))
    assert isinstance(again, nn.Identity)
    assert again(torch.ones(2)).tolist() == [1, 1]
