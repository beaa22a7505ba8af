# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's attention, with as many heads as a plan leaves."""

import copy
import io
import warnings

import onnxruntime
import pytest
import torch
from torch import nn

from mmlapp.core import analyse, attach, narrow
from mmlapp.core.plan.plan import ChannelPlan
from mmlapp.core.trace.blocks.attention import APART, AVERAGED

WIDTH, HEADS, LENGTH, KEYS = 12, 4, 6, 5


class Crossed(nn.Module):
    """Queries of one input and keys and values of two others."""

    def __init__(self, arguments, call):
        super().__init__()
        sizes = arguments.get('kdim', WIDTH), arguments.get('vdim', WIDTH)
        self.q = nn.Linear(3, WIDTH)
        self.k, self.v = (nn.Linear(3, size) for size in sizes)
        self.mha = nn.MultiheadAttention(WIDTH, HEADS, **arguments)
        self.last = nn.Linear(WIDTH, 4)
        self.call = call

    def forward(self, x):
        queries, keys = x, x[:, :KEYS].flip(1)
        inputs = [self.q(queries), self.k(keys), self.v(keys).relu()]
        if not self.mha.batch_first:
            inputs = [y.transpose(0, 1) for y in inputs]
        y = self.mha(*inputs, **self.call)[0]
        y = y if self.mha.batch_first else y.transpose(0, 1)
        return self.last(y)


HIDDEN = torch.rand(LENGTH, KEYS) > 0.7
HIDDEN[:, 0] = False
PADDED = torch.zeros(2, KEYS, dtype=torch.bool)
PADDED[1, 3:] = True
CASES = {
    'packed': ({'batch_first': True}, {}),
    'without weights': ({'batch_first': True}, {'need_weights': False}),
    'length first': ({}, {'need_weights': False}),
    'other widths': ({'kdim': 7, 'vdim': 9, 'batch_first': True}, {}),
    'no bias': ({'bias': False}, {}),
    'a key for all': ({'add_bias_kv': True, 'add_zero_attn': True}, {}),
    'two masks': (
        {'batch_first': True},
        {'attn_mask': HIDDEN, 'key_padding_mask': PADDED},
    ),
    'a mask of numbers': (
        {'batch_first': True, 'add_zero_attn': True},
        {
            'attn_mask': HIDDEN.double().mul(-9),
            'key_padding_mask': PADDED.double().mul(-9),
            'need_weights': False,
        },
    ),
}


def build(case):
    model = Crossed(*CASES[case]).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture
def tokens():
    return torch.randn(2, LENGTH, 3, dtype=torch.float64)


def keep(pruner, heads, others=0.5):
    """Keeps a number of heads, and a share of everything else."""
    masks = []
    for group in pruner.groups:
        kept = heads if group.block > 1 else int(group.size * others)
        mask = torch.zeros(group.size, dtype=torch.bool)
        mask[torch.randperm(group.size)[:kept]] = True
        masks.append(mask)
    pruner.set_mask(torch.cat(masks))


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('heads', [3, 1])
@torch.no_grad()
def test_masked_and_narrowed_agree(case, heads, tokens, count_all_macs):
    model = build(case)
    dense = model(tokens)
    pruner = attach(model, tokens)
    assert pruner.cost('flops').dense == count_all_macs(model, tokens)
    (group,) = (g for g in pruner.groups if g.block > 1)
    assert (group.size, group.block) == (HEADS, WIDTH // HEADS)
    keep(pruner, heads)
    masked = model(tokens)
    assert not torch.allclose(masked, dense, rtol=1e-2)
    plan = ChannelPlan.from_json(pruner.plan().to_json())
    slim = narrow(build(case), plan)
    slim.load_state_dict(narrow(copy.deepcopy(model), plan).state_dict())
    torch.testing.assert_close(slim(tokens), masked, rtol=1e-11, atol=1e-11)
    assert slim.mha.num_heads == heads
    assert slim.mha.out_proj.in_features == heads * 3
    assert plan.costs['flops']['pruned'] == pytest.approx(
        count_all_macs(slim, tokens)
    )


def reasons(model, x):
    found = analyse(model.eval(), lambda: model(x))
    return {g.name: g.frozen for g in found.groups.items}


class Weights(Crossed):
    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.last(self.mha(q, k, v, **self.call)[1] @ v)


def test_heads_whose_average_is_read_stay(tokens):
    model = Weights({'batch_first': True}, {}).double()
    assert AVERAGED in reasons(model, tokens).values()


def test_heads_with_masks_of_their_own_stay(tokens):
    masks = torch.zeros(2 * HEADS, LENGTH, KEYS, dtype=torch.float64)
    model = Crossed({'batch_first': True}, {'attn_mask': masks}).double()
    assert APART in reasons(model, tokens).values()


@pytest.mark.filterwarnings('ignore:.*nested tensors')
@torch.no_grad()
def test_an_encoder_with_padding_runs_without_its_kernels(tokens):
    """PyTorch's fast path knows heads that are as wide as the input."""

    def make():
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 16, dropout=0, batch_first=True
        )
        encoder = nn.TransformerEncoder(layer, 2)
        return nn.Sequential(nn.Linear(3, WIDTH), encoder).double().eval()

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.parts = make()

        def forward(self, x):
            x = self.parts[0](x)
            padded = torch.zeros(x.shape[:2], dtype=torch.bool)
            padded[1, 4:] = True
            return self.parts[1](x, src_key_padding_mask=padded)[:, :4]

    model = Padded()
    pruner = attach(model, tokens)
    assert sum(g.block > 1 for g in pruner.groups) == 2
    keep(pruner, 2)
    masked = model(tokens)
    slim = narrow(model, pruner.plan())
    torch.testing.assert_close(slim(tokens), masked, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_a_narrow_module_is_exported_and_pruned_once_more(tokens):
    model = build('packed')
    keep(attach(model, tokens), 3)
    slim = narrow(model, model.pruner.plan())
    buffer = io.BytesIO()
    single = copy.deepcopy(slim).float()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the older exporter
        torch.onnx.export(single, (tokens.float(),), buffer, dynamo=False)
    session = onnxruntime.InferenceSession(buffer.getvalue())
    name = session.get_inputs()[0].name
    (found,) = session.run(None, {name: tokens.float().numpy()})
    expected = single(tokens.float())
    torch.testing.assert_close(torch.from_numpy(found), expected)
    restored = torch.load(_saved(slim), weights_only=False)
    torch.testing.assert_close(restored(tokens), slim(tokens))
    pruner = attach(slim, tokens)
    keep(pruner, 1)
    masked = slim(tokens)
    again = narrow(slim, pruner.plan())
    assert again.mha.num_heads == 1
    torch.testing.assert_close(again(tokens), masked)


def _saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file
