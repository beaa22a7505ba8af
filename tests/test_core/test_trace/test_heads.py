# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whole heads of attention, in the ways in which it is written."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import analyse, attach, narrow
from mmlapp.core.plan.plan import ChannelPlan

WIDTH, HEADS, EACH, LENGTH = 12, 4, 5, 6
INNER = HEADS * EACH


class Attention(nn.Module):
    """Joint projections; a subclass says how the rest is written."""

    def __init__(self, inner=INNER):
        super().__init__()
        self.num_heads, self.head_dim = HEADS, inner // HEADS
        self.inner = inner
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(WIDTH, 3 * inner)
        self.proj = nn.Linear(inner, WIDTH)

    def cut(self, x):
        n, length, _ = x.shape
        return (
            self.qkv(x)
            .reshape(n, length, 3, self.num_heads, self.head_dim)
            .permute(2, 0, 3, 1, 4)
        )

    def mix(self, q, k, v):
        return ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v

    def forward(self, x):
        n, length, _ = x.shape
        y = self.mix(*self.cut(x).unbind(0))
        return self.proj(y.transpose(1, 2).reshape(n, length, self.inner))


class Fused(Attention):
    def mix(self, q, k, v):
        return functional.scaled_dot_product_attention(q, k, v)


class OfItsInput(Attention):
    """Every size is taken from the shape of the input."""

    def __init__(self):
        super().__init__(WIDTH)

    def forward(self, x):
        n, length, c = x.shape
        qkv = self.qkv(x).reshape(
            n, length, 3, self.num_heads, c // self.num_heads
        )
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = self.mix(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, length, c))


class Scaled(OfItsInput):
    """The scale of its queries is computed from that size, too."""

    def forward(self, x):
        n, length, c = x.shape
        width = c // self.num_heads
        qkv = self.qkv(x).reshape(n, length, 3, self.num_heads, width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = (self.scaled(q, width) @ k.mT).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, length, c))

    def scaled(self, q, width):
        return q * width**-0.5


class Rooted(Scaled):
    def scaled(self, q, width):
        return q / math.sqrt(width)


class KeysWithoutBias(Attention):
    """A part of a copy of the biases is set to zero (Swin V2)."""

    def cut(self, x):
        n, length, _ = x.shape
        bias = self.qkv.bias.clone()
        third = bias.numel() // 3
        bias[third : 2 * third].zero_()
        y = functional.linear(x, self.qkv.weight, bias)
        shape = n, length, 3, self.num_heads, self.head_dim
        return y.reshape(shape).permute(2, 0, 3, 1, 4)


class Separate(Attention):
    """One projection each; keys and values of fewer, and as many as fit."""

    def __init__(self):
        super().__init__(WIDTH)
        self.qkv = None
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        n, length, c = x.shape
        shape = n, -1, self.num_heads, c // self.num_heads
        q, k, v = (
            f(y).reshape(shape).transpose(1, 2)
            for f, y in ((self.q, x), (self.k, x[:, ::2]), (self.v, x[:, ::2]))
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, length, c))


class WideValues(Attention):
    """Three layers, and values that are twice as wide as queries."""

    def __init__(self):
        super().__init__(2 * INNER)
        self.qkv, self.head_dim = None, 2 * EACH
        self.q, self.k = (nn.Linear(WIDTH, INNER) for _ in range(2))
        self.v = nn.Linear(WIDTH, 2 * INNER)

    def forward(self, x):
        n, length, _ = x.shape
        shape = n, length, self.num_heads, -1
        q, k, v = (
            f(x).reshape(shape).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        y = self.mixed(q, k).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, length, self.inner))

    def mixed(self, q, k):
        return (q * self.scale) @ k.mT


class TalkingValues(WideValues):
    """A convolution mixes heads, whose outputs meet those of the values."""

    def __init__(self):
        super().__init__()
        self.talk = nn.Conv2d(HEADS, HEADS, 1)

    def mixed(self, q, k):
        return self.talk(super().mixed(q, k))


class Biased(Attention):
    """A table of biases, a scale for each head and normalised queries."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(2 * LENGTH - 1, HEADS))
        places = torch.arange(LENGTH)
        index = places[:, None] - places + LENGTH - 1
        self.register_buffer('index', index)
        self.each = nn.Parameter(torch.randn(HEADS, 1, 1))
        self.q_norm = nn.LayerNorm(EACH)

    def mix(self, q, k, v):
        q = functional.normalize(self.q_norm(q), dim=-1)
        k = functional.normalize(k, dim=-1)
        a = (q @ k.transpose(-2, -1)) * self.each.exp()
        bias = self.table[self.index.view(-1)].view(LENGTH, LENGTH, -1)
        return (a + bias.permute(2, 0, 1).unsqueeze(0)).softmax(-1) @ v


class OwnNorm(nn.LayerNorm):
    """With a forward of its own, as libraries have."""

    def forward(self, x):
        shape, eps = self.normalized_shape, self.eps
        return functional.layer_norm(x, shape, self.weight, self.bias, eps)


class Pooled(Attention):
    """Heads are filtered as images of their own, and normalised (MViT)."""

    def __init__(self):
        super().__init__()
        self.pool = nn.Conv2d(EACH, EACH, 3, padding=1, groups=EACH)
        self.norm = OwnNorm(EACH)

    def mix(self, q, k, v):
        return super().mix(q, *(self.norm(self.filter(y)) for y in (k, v)))

    def filter(self, y):
        # [N, heads, L, d] -> [N heads, L / 3, 3, d] -> [N heads, d, ..]
        y = y.reshape(-1, y.shape[2] // 3, 3, EACH).permute(0, 3, 1, 2)
        y = self.pool(y.contiguous())
        pixels = y.shape[2] * y.shape[3]
        y = y.reshape(-1, self.num_heads, y.shape[1], pixels)
        return y.transpose(2, 3)


class Talking(Attention):
    """Heads are mixed before and behind the softmax."""

    def __init__(self):
        super().__init__()
        self.before = nn.Linear(HEADS, HEADS)
        self.behind = nn.Linear(HEADS, HEADS)

    def mix(self, q, k, v):
        a = (q * self.scale) @ k.transpose(-2, -1)
        a = self.before(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        a = self.behind(a.softmax(-1).permute(0, 2, 3, 1))
        return a.permute(0, 3, 1, 2) @ v


class HeadsInFront(Attention):
    """A convolution makes them: [N, heads, 3 width, positions]."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Conv1d(WIDTH, 3 * INNER, 1)

    def forward(self, x):
        n, length, _ = x.shape
        y = self.qkv(x.transpose(1, 2))
        y = y.view(n, self.num_heads, -1, length)
        q, k, v = y.split(self.head_dim, dim=2)
        y = v @ ((q * self.scale).mT @ k).softmax(-1).mT
        return self.proj(y.reshape(n, self.inner, length).transpose(1, 2))


class Padded(Attention):
    """Heads are filled up with zeros, as kernels for GPUs want them."""

    def mix(self, q, k, v):
        q, k, v = (functional.pad(y, (0, 3)) for y in (q, k, v))
        return super().mix(q, k, v)[..., :EACH]


class InTheBatch(Attention):
    """Heads lie in the batch, whose size is a product: [N heads, L, d]."""

    def forward(self, x):
        n, length, _ = x.shape
        h, d = self.num_heads, self.head_dim
        q, k, v = (
            y.reshape(n, length, h, d).transpose(1, 2).reshape(n * h, -1, d)
            for y in self.qkv(x).chunk(3, -1)
        )
        y = torch.bmm(self.scores(q, k).softmax(-1), v)
        y = y.view(n, h, length, d).transpose(1, 2)
        return self.proj(y.reshape(n, length, h * d))

    def scores(self, q, k):
        return torch.bmm(q * self.scale, k.mT)


class Relative(InTheBatch):
    """Compares the queries with a table of 9 steps, too."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.empty(9, self.head_dim))

    def scores(self, q, k):
        # [N heads, 1, L, d] times [d, 9], as one product of N heads L rows.
        steps = (q[:, None] @ self.table.mT).reshape(-1, q.shape[1], 9)
        return super().scores(q, k) + steps.square().sum(-1)[:, None]


class StepsInFront(Attention):
    """The same of [L, N, C], cut at once: [L, N heads, d]."""

    def forward(self, x):
        n, length, _ = x.shape
        h, d = self.num_heads, self.head_dim
        q, k, v = (
            y.reshape(length, n * h, d).transpose(0, 1)
            for y in self.qkv(x.transpose(0, 1)).chunk(3, -1)
        )
        y = ((q * self.scale) @ k.mT).softmax(-1) @ v
        y = y.transpose(0, 1).reshape(length, n, h * d)
        return self.proj(y).transpose(0, 1)


class Covariance(Attention):
    """Channels of a head are compared over all positions (XCiT)."""

    def __init__(self):
        super().__init__(WIDTH)
        self.each = nn.Parameter(torch.randn(HEADS, 1, 1))

    def forward(self, x):
        n, length, c = x.shape
        y = self.qkv(x).reshape(n, length, 3, self.num_heads, -1)
        q, k, v = y.permute(2, 0, 3, 4, 1)
        q, k = (functional.normalize(y, dim=-1) for y in (q, k))
        y = ((q @ k.mT) * self.each).softmax(-1) @ v
        return self.proj(y.permute(0, 3, 1, 2).reshape(n, length, c))


class Positions(nn.Module):
    """A convolution of values, by queries, of as many heads as it is given."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(INNER, INNER, 3, padding=1, groups=INNER)

    def forward(self, q, v):
        n, heads, length, width = q.shape
        y = self.conv(v.mT.reshape(n, heads * width, length))
        return q * y.reshape(n, heads, width, length).mT


class Factorised(Attention):
    """Keys by values first (CoaT), with positions by a module inside."""

    def __init__(self):
        super().__init__()
        self.positions = Positions()

    def mix(self, q, k, v):
        found = q @ (k.softmax(2).mT @ v)
        return self.scale * found + self.positions(q, v)


class Projected(Attention):
    """Keys and values of fewer positions, mixed by a matrix (Linformer)."""

    def __init__(self):
        super().__init__()
        self.fewer = nn.Parameter(torch.empty(3, LENGTH))

    def mix(self, q, k, v):
        return super().mix(q, self.fewer @ k, torch.matmul(self.fewer, v))


class Checked(Attention):
    """Each head compares content and place; widths are checked first."""

    def __init__(self):
        super().__init__()
        self.place, self.scale = nn.Linear(WIDTH, 2 * INNER), None

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = (
            self.beside(*ys)
            for ys in zip((q, k), self.place(x).chunk(2, -1), strict=True)
        )
        assert v.size(2) == self.inner
        width, wide = self.inner // self.num_heads, q.size(2) // self.num_heads
        q, k, v = (
            y.view(n, length, self.num_heads, each).transpose(1, 2)
            for y, each in ((q, wide), (k, wide), (v.contiguous(), width))
        )
        y = ((q * float(wide) ** -0.5) @ k.mT).softmax(-1) @ v
        y = y.transpose(1, 2).reshape(n, length, self.num_heads, width)
        return self.proj(y.flatten(2))

    def beside(self, *parts):
        """[N, L, C] and another -> [N, L, heads, 2 C / heads] in one."""
        n, length, c = parts[0].shape
        shape = n, length, self.num_heads, c // self.num_heads
        y = torch.cat([y.reshape(shape) for y in parts], 3)
        return y.view(n, length, 2 * c)


class Gated(OfItsInput):
    """Heads by content and by place, which the first forward lays out."""

    def __init__(self):
        super().__init__()
        self.place = nn.Linear(2, HEADS)
        self.gate = nn.Parameter(torch.randn(HEADS))
        self.register_buffer('grid', torch.zeros(1, 1, 2), persistent=False)

    def laid_out(self, like):
        step = torch.arange(like.shape[1]).to(like) / like.shape[1]
        apart = step.view(1, -1) - step.view(-1, 1)
        return torch.stack([apart, apart**2], -1)

    def forward(self, x):
        if self.grid.shape[1] != x.shape[1]:
            self.grid = self.laid_out(x)
        return super().forward(x)

    def mix(self, q, k, v):
        content = (q @ k.mT * self.scale).softmax(-1)
        place = self.place(self.grid).permute(2, 0, 1).softmax(-1)
        gate = self.gate.view(1, -1, 1, 1).sigmoid()
        return ((1 - gate) * content + gate * place) @ v


FORMS = (
    Attention,
    Fused,
    OfItsInput,
    Scaled,
    Rooted,
    KeysWithoutBias,
    Separate,
    WideValues,
    TalkingValues,
    Biased,
    Pooled,
    Talking,
    HeadsInFront,
    Padded,
    InTheBatch,
    Relative,
    StepsInFront,
    Covariance,
    Factorised,
    Projected,
    Checked,
    Gated,
)


class Net(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.first = nn.Linear(3, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = form()
        self.last = nn.Linear(WIDTH, 4)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.attention(self.norm(x)))


@pytest.fixture
def tokens():
    return torch.randn(2, LENGTH, 3, dtype=torch.float64)


def build(form):
    model = Net(form).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def heads_of(pruner):
    return [g for g in pruner.groups if g.name.startswith('attention.')]


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('kept', [3, 1])
@torch.no_grad()
def test_masked_and_narrowed_heads_agree(form, kept, tokens, count_all_macs):
    model = build(form)
    dense, before = model(tokens), count_all_macs(model, tokens)
    pruner = attach(model, tokens)
    assert pruner.cost('flops').dense == before
    found = heads_of(pruner)
    assert HEADS in [group.size for group in found]
    masks = []
    for group in pruner.groups:
        mask = torch.ones(group.size, dtype=torch.bool)
        if group in found and group.size == HEADS:
            mask[torch.randperm(HEADS)[kept:]] = False
        masks.append(mask)
    pruner.set_mask(torch.cat(masks))
    masked = model(tokens)
    assert not torch.allclose(masked, dense, rtol=1e-2)
    plan = ChannelPlan.from_json(pruner.plan().to_json())
    slim = narrow(build(form), plan)
    slim.load_state_dict(narrow(model, plan).state_dict())
    torch.testing.assert_close(slim(tokens), masked, rtol=1e-11, atol=1e-11)
    assert plan.costs['flops']['pruned'] == pytest.approx(
        count_all_macs(slim, tokens)
    )
    assert slim.attention.proj.in_features == (kept * model.attention.head_dim)
    more = torch.randn(3, 2 * LENGTH, 3, dtype=torch.float64)
    if form not in (Biased, Projected):
        assert slim(more).shape == (3, 2 * LENGTH, 4)


def test_a_first_forward_may_lay_out_what_others_read(tokens):
    model = build(Gated)
    (first, second) = (
        [g.size for g in analyse(model, tokens).groups.prunable if g.heads]
        for _ in range(2)
    )
    assert first == second == [HEADS]
    assert model.attention.grid.shape == (1, 1, 2)


def reasons(model, x):
    found = analyse(model, lambda: model(x))
    return {g.name: g.frozen for g in found.groups.items}


class Constant(Attention):
    """The number of its heads is a constant of the code."""

    def cut(self, x):
        y = self.qkv(x).unflatten(-1, (3, HEADS, EACH))
        return y.permute(2, 0, 3, 1, 4)


class Slopes(Attention):
    """Each head has a constant of its own, which is no parameter."""

    def mix(self, q, k, v):
        slopes = torch.arange(1, HEADS + 1, dtype=q.dtype).view(-1, 1, 1)
        return ((q @ k.mT) * self.scale - slopes).softmax(-1) @ v


class Ordered(Attention):
    """A head that is the first of all."""

    def mix(self, q, k, v):
        y = super().mix(q, k, v)
        return torch.cat([y[:, :1] * 2, y[:, 1:]], 1)


@pytest.mark.parametrize(
    ('form', 'reason'),
    [(Slopes, 'no channel'), (Ordered, 'moved in a way that mixes')],
)
def test_heads_that_must_stay_say_why(form, reason, tokens):
    assert reason in reasons(build(form), tokens)['attention.qkv']


def test_a_constant_number_leaves_the_width_of_heads(tokens):
    """As it was without heads: the same position of each of them goes."""
    found = analyse(build(Constant), tokens)
    (group,) = (g for g in found.groups.items if g.name == 'attention.qkv')
    assert (group.size, group.heads) == (EACH, False)


class Summed(Attention):
    """Products of activations whose pieces are no heads."""

    def mix(self, q, k, v):
        q, k, v = (y.transpose(1, 2).flatten(2) for y in (q, k, v))
        y = (q @ k.mT / LENGTH) @ v
        return y.unflatten(2, (HEADS, EACH)).transpose(1, 2)


def test_what_is_not_compared_head_by_head_has_none(tokens):
    found = analyse(build(Summed), tokens).groups.items
    assert not any(g.heads for g in found)


def test_queries_and_keys_are_not_masked(tokens):
    """A gate scales what a head adds, and not how sharply it looks."""
    model = build(Attention)
    pruner = attach(model, tokens)
    gate = torch.ones(len(pruner.gate), dtype=torch.float64)
    (number,) = (n for n, g in enumerate(pruner.groups) if g.block > 1)
    first = sum(g.size for g in pruner.groups[:number])
    outputs = []
    for value in (0.0, 0.5, 1.0):
        gate[first] = value
        pruner.gate.copy_(gate)
        outputs.append(model(tokens))
    zero, half, one = outputs
    assert not torch.allclose(zero, one, rtol=1e-2)
    torch.testing.assert_close(half, (zero + one) / 2)


def test_a_divisor_counts_all_channels_of_a_head(tokens):
    """Of heads with five channels two are a multiple of ten."""
    pruner = attach(build(Attention), tokens, divisor=10)
    names = [group.name for group in pruner.groups]
    divisors = dict(zip(names, pruner.divisors, strict=True))
    assert divisors['attention.qkv'] == 2
    assert divisors['first'] == 10
    pruner.begin({'flops': 0.7}, steps=1)
    pruner.step()
    assert pruner.plan().groups['attention.qkv'].count in (2, 4)


def test_training_goes_on_where_heads_were_removed(tokens):
    """Narrowed in the middle of a run, with the state of the optimizer."""
    model = build(OfItsInput)
    twin = copy.deepcopy(model)
    for network in (model, twin):
        pruner = attach(network, tokens, scope='attention.qkv')
        optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
        pruner.begin({'flops': 0.75}, steps=2)
        for step in range(4):
            if step == 2 and network is twin:
                narrow(network, pruner.plan(), optimizer)
            optimizer.zero_grad()
            network(tokens).square().mean().backward()
            optimizer.step()
            if step < 2:
                pruner.step()
    assert twin.attention.num_heads < HEADS
    torch.testing.assert_close(twin(tokens), model(tokens))


class Single(Separate):
    """One head, which is scaled by the width that its input has."""

    def __init__(self):
        super().__init__()
        self.num_heads = 1


@torch.no_grad()
def test_channels_go_around_a_single_head_whose_width_stays(tokens):
    model = build(Single)
    pruner = attach(model, tokens)
    assert {g.name: g.size for g in pruner.groups} == {'first': WIDTH}
    pruner.set_mask(torch.arange(WIDTH) % 3 > 0)
    masked = model(tokens)
    plan = ChannelPlan.from_json(pruner.plan().to_json())
    slim = narrow(model, plan)
    torch.testing.assert_close(slim(tokens), masked, rtol=1e-11, atol=1e-11)
    part = slim.attention
    shapes = [f.weight.shape for f in (part.q, part.k, part.v, part.proj)]
    # Values are not scaled.
    assert shapes == [(WIDTH, 8), (WIDTH, 8), (8, 8), (8, 8)]


@pytest.mark.parametrize('form', [Scaled, Rooted])
@torch.no_grad()
def test_channels_go_around_heads_whose_width_is_a_quotient(form, tokens):
    model = build(form)
    pruner = attach(model, tokens)
    sizes = {g.name: g.size for g in pruner.groups}
    assert sizes == {'first': WIDTH, 'attention.qkv': HEADS}
    masks = {'first': torch.arange(WIDTH) % 3 > 0}
    masks['attention.qkv'] = torch.arange(HEADS) != 1
    pruner.set_mask(torch.cat([masks[name] for name in sizes]))
    masked = model(tokens)
    plan = ChannelPlan.from_json(pruner.plan().to_json())
    slim = narrow(build(form), plan)
    slim.load_state_dict(narrow(model, plan).state_dict())
    # 8 channels and 3 heads, each as wide as ever.
    assert slim.attention.qkv.weight.shape == (3 * 3 * WIDTH // HEADS, 8)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it is deprecated
        traced = torch.jit.trace(slim, tokens)
    for other in (
        slim,
        copy.deepcopy(slim),
        pickle.loads(pickle.dumps(slim)),
        traced,
        torch.export.export(slim, (tokens,)).module(),
    ):
        torch.testing.assert_close(other(tokens), masked)


@pytest.mark.parametrize('form', [Attention, OfItsInput, Scaled, Separate])
@torch.no_grad()
def test_what_has_lost_heads_can_be_pruned_again(form, tokens):
    model = build(form)
    for removed in (1, 2):
        pruner = attach(model, tokens)
        masks = [torch.arange(g.size) != removed for g in pruner.groups]
        pruner.set_mask(torch.cat(masks))
        masked = model(tokens)
        narrow(model, pruner.plan())
        torch.testing.assert_close(model(tokens), masked)
