# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Tables lose columns with the stream that they begin; their rows stay."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import (
    ChannelPlan,
    attach,
    load_slim,
    narrow,
    save_slim,
)
from mmlapp.core.trace.rules.along import PLACES
from mmlapp.core.trace.rules.embedding import LIMITED, ROWS, SPARSE
from mmlapp.core.trace.tracer import WRITTEN


@pytest.fixture
def words():
    return torch.randint(0, 11, (2, 6))


@pytest.fixture
def vectors():
    return torch.randn(2, 6, 3, dtype=torch.float64)


class Block(nn.Module):
    """Attention and what follows it, with norms before both."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.wide, self.back = nn.Linear(width, 20), nn.Linear(20, width)

    def forward(self, x):
        b, n, c = x.shape
        y = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, c // self.heads)
        y = functional.scaled_dot_product_attention(
            *y.permute(2, 0, 3, 1, 4), is_causal=True
        )
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.back(functional.gelu(self.wide(self.norm2(x))))


class Language(nn.Module):
    """A model of language, whose head is the table of words."""

    def __init__(self, width=12):
        super().__init__()
        self.words = nn.Embedding(11, width, padding_idx=0)
        self.places = nn.Embedding(9, width)
        self.block = Block(width, 3)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, i):
        x = self.words(i) + self.places(torch.arange(i.shape[1]))
        return self.head(self.norm(self.block(x)))


def language():
    return Language().double()


def test_a_model_of_language_with_a_tied_head(agree, words):
    result = agree(
        language(), words, uncounted=(2 * 2 * 6 * 6 * 12, 2 * 2 * 6 * 6 * 4)
    )
    assert result.groups == {'words': 12, 'block.qkv': 3, 'block.wide': 20}
    slim = result.slim
    assert slim.words.embedding_dim == slim.places.embedding_dim == 6
    assert slim.words.weight is slim.head.weight
    assert slim.words.weight.shape == (11, 6)
    assert slim.head.in_features == 6
    assert repr(slim.words) == 'Embedding(11, 6, padding_idx=0)'


def test_rows_stay(frozen, words):
    reasons = frozen(language(), words)
    assert reasons == {'words': ROWS.format('aten::embedding')}


# What is added to a stream of 8 channels, [N, L, 8], of a part, and which
# groups there are beside it.
ADDED = {
    'positions': (
        lambda: nn.Embedding(9, 8),
        lambda m, x, y: m.part(torch.arange(x.shape[1])),
    ),
    'positions of each image': (
        lambda: nn.Embedding(9, 8),
        lambda m, x, y: m.part(torch.arange(6).expand(len(x), 6)),
    ),
    'padding': (
        lambda: nn.Embedding(3, 8, padding_idx=1, scale_grad_by_freq=True),
        lambda m, x, y: m.part(x.argmax(-1)),
    ),
    'largest channel of a part': (
        lambda: nn.Embedding(5, 8),
        lambda m, x, y: m.part(m.b(y).argmax(-1)),
    ),
    'parameter': (
        lambda: nn.Parameter(torch.randn(5, 8)),
        lambda m, x, y: functional.embedding(torch.arange(6) % 5, m.part),
    ),
    'some of a parameter': (
        lambda: nn.Parameter(torch.randn(5, 8)),
        lambda m, x, y: functional.embedding(
            torch.arange(6) % 3, m.part[1:] * 2
        ),
    ),
    'buffer': (
        lambda: torch.randn(5, 8),
        lambda m, x, y: functional.embedding(torch.arange(6) % 5, m.part),
    ),
    'width': (
        lambda: nn.Embedding(9, 8),
        lambda m, x, y: m.part(torch.arange(6)).view(-1, m.part.embedding_dim),
    ),
}


@pytest.mark.parametrize('name', ADDED)
def test_tables_that_are_added_to_a_stream(net, vectors, agree, name):
    part, added = ADDED[name]

    def forward(m, x):
        y = m.a(x)
        return m.b((y + added(m, x, y)).tanh())

    model = net(
        forward,
        a=nn.Linear(3, 8),
        b=nn.Linear(8, 5),
        part=part(),
    )
    assert agree(model, vectors).groups == {'a': 8}


def bag(mode, **arguments):
    return nn.EmbeddingBag(11, 8, mode=mode, **arguments)


STARTS = torch.tensor([0, 2, 2])
WEIGHTS = torch.linspace(0.1, 1, 12, dtype=torch.float64).view(2, 6)
BAGS = {
    'sum': (lambda: bag('sum'), lambda m, i: m.part(i)),
    'mean': (lambda: bag('mean', padding_idx=3), lambda m, i: m.part(i)),
    'max': (lambda: bag('max'), lambda m, i: m.part(i)),
    'starts': (lambda: bag('mean'), lambda m, i: m.part(i.flatten(), STARTS)),
    'ends': (
        lambda: bag('max', include_last_offset=True),
        lambda m, i: m.part(i.flatten(), STARTS),
    ),
    'weights': (
        lambda: bag('sum'),
        lambda m, i: m.part(i, per_sample_weights=WEIGHTS),
    ),
    'function': (
        lambda: nn.Parameter(torch.randn(11, 8)),
        lambda m, i: functional.embedding_bag(i, m.part, mode='sum'),
    ),
}


@pytest.mark.parametrize('name', BAGS)
def test_bags(net, words, agree, name):
    part, bags = BAGS[name]
    model = net(
        lambda m, i: m.b(m.a(bags(m, i).tanh()).tanh()),
        part=part(),
        a=nn.Linear(8, 6),
        b=nn.Linear(6, 5),
    )
    found = agree(model, words)
    # A table is called by the module that it is in.
    table = '' if name == 'function' else 'part'
    assert found.groups == {table: 8, 'a': 6}
    assert not table or found.slim.part.embedding_dim == 4


def test_weights_of_a_bag_have_places(net, vectors, frozen):
    def forward(m, x):
        y = m.a(x).sigmoid()  # [N, L, 8], of which each is a bag
        i = torch.zeros_like(y, dtype=torch.long).flatten(0, 1)
        weights = y.flatten(0, 1)
        return m.b(m.part(i, per_sample_weights=weights))

    model = net(forward, a=nn.Linear(3, 8), b=nn.Linear(8, 5), part=bag('sum'))
    reasons = frozen(model, vectors)
    assert reasons['a'] == PLACES.format('aten::_embedding_bag')


def test_indices_of_each_channel(net, vectors, agree):
    """Their dimension comes out; a row that is picked is not zero."""

    def forward(m, x):
        y = m.a(x)  # [N, L, 8]
        z = m.part((y > 0).long())  # [N, L, 8, 6]
        return m.b((y[..., None] * z).sum(2))

    model = net(
        forward,
        a=nn.Linear(3, 8),
        b=nn.Linear(6, 5),
        part=nn.Embedding(2, 6),
    )
    assert agree(model, vectors).groups == {'a': 8, 'part': 6}


def test_indices_that_count_channels(net, vectors, frozen):
    """The first rows for as many channels as there are, not for which."""

    def forward(m, x):
        y = m.a(x)
        return m.b(y @ m.part(torch.arange(y.shape[-1])))

    model = net(
        forward,
        a=nn.Linear(3, 8),
        b=nn.Linear(6, 5),
        part=nn.Embedding(8, 6),
    )
    reasons = frozen(model, vectors)
    assert 'a' in reasons


def test_rows_of_activations(net, vectors, agree):
    model = net(
        lambda m, x: m.b(functional.embedding(torch.arange(4) % 3, m.a(x[0]))),
        a=nn.Linear(3, 8),
        b=nn.Linear(8, 5),
    )
    assert agree(model, vectors).groups == {'a': 8}


def limits_itself(m, i):
    return functional.embedding(i, m.part.weight * 2, max_norm=1.0)


STAY = {
    'limited': (lambda: nn.Embedding(11, 8, max_norm=1.0), None, WRITTEN),
    'limited bag': (lambda: bag('sum', max_norm=1.0), None, WRITTEN),
    'limited product': (
        lambda: nn.Embedding(11, 8),
        limits_itself,
        LIMITED.format('aten::embedding_renorm_'),
    ),
    'sparse': (lambda: nn.Embedding(11, 8, sparse=True), None, SPARSE),
    'sparse bag': (lambda: bag('mean', sparse=True), None, SPARSE),
}


@pytest.mark.parametrize('name', STAY)
def test_tables_that_stay(net, words, agree, frozen, name):
    part, called, reason = STAY[name]

    def forward(m, i):
        x = m.part(i) if called is None else called(m, i)
        return m.b(m.a(x).tanh())

    model = net(
        forward,
        part=part(),
        a=nn.Linear(8, 6),
        b=nn.Linear(6, 5),
    )
    assert frozen(model, words)['part'] == reason
    assert agree(model, words).groups == {'a': 6}


def train_step(model, optimizer, i):
    optimizer.zero_grad()
    loss = functional.cross_entropy(
        model(i[:, :-1]).flatten(0, 1), i[:, 1:].flatten()
    )
    loss.backward()
    optimizer.step()


def test_training_goes_on_after_narrowing(mask_randomly):
    wide = language()
    examples = torch.randint(0, 11, (6, 2, 7))
    pruner = attach(wide, examples[0, :, :-1])
    mask_randomly(pruner)
    slim = copy.deepcopy(wide)
    optimizers = [
        torch.optim.SGD(m.parameters(), 0.1, 0.9, weight_decay=0.01)
        for m in (wide, slim)
    ]
    for step, i in enumerate(examples):
        if step == 3:
            narrow(slim, pruner.plan(), optimizers[1])
        for model, optimizer in zip((wide, slim), optimizers, strict=True):
            train_step(model, optimizer, i)
    i = examples[0, :, :-1]
    torch.testing.assert_close(slim(i), wide(i), rtol=0, atol=1e-8)
    narrow(wide, pruner.plan())
    expected = wide.state_dict()
    for name, value in slim.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-8)


def test_plans_and_files_hold_tables(words, mask_randomly, tmp_path):
    model = language().eval()
    pruner = attach(model, words)
    mask_randomly(pruner)
    expected = model(words)
    plan = ChannelPlan.from_json(pruner.plan().to_json())
    assert plan == pruner.plan()
    save_slim(narrow(model, plan), tmp_path / 'slim.pth', plan)
    same = load_slim(language(), tmp_path / 'slim.pth').eval()
    torch.testing.assert_close(same(words), expected, rtol=0, atol=1e-8)
    assert same.words.embedding_dim == 6
    assert same.words.weight is same.head.weight


def test_columns_are_scored_as_filters_are(net, words):
    model = net(
        lambda m, i: m.b(m.a(m.part(i)).relu()),
        part=nn.Embedding(11, 8),
        a=nn.Linear(8, 6),
        b=nn.Linear(6, 5),
    )
    table = model.part.weight.detach().float()
    pruner = attach(model, words, score='l1')
    found = pruner.scorer.compute(pruner.groups)[:8]
    # [11, 8]: by how much of it the ranks of columns go.
    order = table.abs().sum(0).argsort()
    assert found.argsort().equal(order)
