# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The narrow form of attention with all its heads is that of PyTorch."""

import copy

import pytest
import torch
from torch import nn

from mmlapp.core.attention.multihead import NarrowAttention, is_known_form

WIDTH, HEADS, LENGTH, KEYS = 12, 4, 6, 5
HIDDEN = torch.rand(LENGTH, KEYS, generator=torch.Generator()) > 0.7
HIDDEN[:, 0] = False
PADDED = torch.zeros(2, KEYS, dtype=torch.bool)
PADDED[1, 3:] = True
EACH = torch.zeros(2 * HEADS, LENGTH, KEYS, dtype=torch.bool)
EACH[::3, :, 2] = True
CASES = {
    'packed': ({'batch_first': True}, {}),
    'length first': ({}, {'need_weights': False}),
    'other widths': ({'kdim': 7, 'vdim': 9, 'bias': False}, {}),
    'a key for all': ({'add_bias_kv': True, 'add_zero_attn': True}, {}),
    'two masks': (
        {'add_zero_attn': True},
        {'attn_mask': HIDDEN, 'key_padding_mask': PADDED},
    ),
    'masks of numbers': (
        {},
        {
            'attn_mask': HIDDEN.float() * -9,
            'key_padding_mask': PADDED.float() * -9,
            'need_weights': False,
        },
    ),
    'a mask for each head': ({}, {'attn_mask': EACH}),
}


class Own(NarrowAttention, nn.MultiheadAttention):
    """As a narrowed module is."""


def own(torch_form):
    made = copy.deepcopy(torch_form)
    made.__class__ = Own
    return made


@pytest.mark.parametrize('average', [True, False])
@pytest.mark.parametrize('case', CASES)
@torch.no_grad()
def test_the_same_weights_give_the_same(case, average):
    arguments, call = CASES[case]
    torch_form = nn.MultiheadAttention(WIDTH, HEADS, **arguments).eval()
    for parameter in torch_form.parameters():
        nn.init.normal_(parameter, std=0.5)
    widths = WIDTH, torch_form.kdim, torch_form.vdim
    inputs = [
        torch.randn(2, length, width)
        for length, width in zip((LENGTH, KEYS, KEYS), widths, strict=True)
    ]
    if not torch_form.batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    call = {**call, 'average_attn_weights': average}
    found, expected = (
        f(*inputs, **call) for f in (own(torch_form), torch_form)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('weights', [True, False])
@torch.no_grad()
def test_a_single_sequence(weights):
    torch_form = nn.MultiheadAttention(WIDTH, HEADS).eval()
    x, padded = torch.randn(KEYS, WIDTH), PADDED[1]
    found, expected = (
        f(x, x, x, padded, need_weights=weights)
        for f in (own(torch_form), torch_form)
    )
    torch.testing.assert_close(found, expected)


def test_dropout_in_training():
    """Of the weights, as a share of what is mixed."""
    torch_form = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.5)
    x = torch.randn(KEYS, 1, WIDTH)
    outputs = []
    for form in (own(torch_form), torch_form):
        torch.manual_seed(0)
        outputs.append(form(x, x, x))
    torch.testing.assert_close(*outputs)


def test_a_hint_without_a_mask_is_refused_as_torch_does():
    x = torch.randn(KEYS, 1, WIDTH)
    for form in (nn.MultiheadAttention, Own):
        with pytest.raises(RuntimeError, match='attn_mask'):
            form(WIDTH, HEADS)(x, x, x, is_causal=True)


def test_which_modules_attend_so():
    class MultiheadAttention(nn.Module):
        """Another one of the name."""

        def forward(self, x):
            return x

    forms = nn.MultiheadAttention(4, 2), Own(4, 2), MultiheadAttention()
    assert list(map(is_known_form, forms)) == [True, True, False]
