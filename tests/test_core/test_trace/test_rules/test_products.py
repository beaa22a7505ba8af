# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Matrix products and attention."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core.cost.flops import multiply_adds
from mmlapp.core.trace import trace


@pytest.mark.parametrize('shape', [(4, 3), (2, 5, 3), (2, 2, 5, 3)])
@pytest.mark.parametrize('bias', [True, False])
def test_linear(net, agree, shape, bias):
    model = net(
        lambda m, x: m.b(m.a(x).relu()),
        a=nn.Linear(3, 8, bias=bias),
        b=nn.Linear(8, 5, bias=bias),
    )
    result = agree(model, torch.randn(shape).double())
    assert result.groups == {'a': 8}
    assert (result.slim.a.out_features, result.slim.b.in_features) == (4, 4)


def test_linear_over_positions_keeps_the_channels(net, conv, image, agree):
    """As MLP-Mixer mixes tokens: channels are the rows of the product."""

    def forward(m, x):
        x = m.a(x).flatten(2)
        return m.b(m.mix(x).unflatten(2, (2, 8)))

    model = net(forward, a=conv(3, 8), mix=nn.Linear(64, 16), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


def test_a_product_of_activations_passes_its_rows_and_columns(
    net, conv, image, agree
):
    """Gram matrix of two feature maps, read by channels."""

    def forward(m, x):
        left, right = m.a(x).flatten(2), m.b(x).flatten(2)
        return m.c(left @ right.transpose(1, 2))

    model = net(forward, a=conv(3, 6), b=conv(3, 8), c=nn.Linear(8, 5))
    result = agree(
        net(
            lambda m, x: forward(m, x).sum(1),
            a=model.a,
            b=model.b,
            c=model.c,
        ),
        image,
    )
    assert result.groups['b'] == 8


def test_a_product_over_what_is_not_zero_is_frozen(net, conv, image, frozen):
    def forward(m, x):
        left = m.a(x).flatten(2).sigmoid().transpose(1, 2)
        return left @ m.b(x).flatten(2).sigmoid()

    model = net(forward, a=conv(3, 8), b=conv(3, 8))
    assert 'contracted where it is not zero' in frozen(model, image).values()


def test_a_product_where_one_side_is_zero(net, conv, image, agree):
    def forward(m, x):
        left = m.a(x).flatten(2).sigmoid().transpose(1, 2)
        return left @ m.b(x).flatten(2)

    model = net(forward, a=conv(3, 8), b=conv(3, 8))
    assert agree(model, image).groups == {'a': 8}


def test_attention_passes_the_values(net, agree):
    """Query and key are compared, values pass: 2 heads of 6 channels."""

    def heads(x):
        return x.unflatten(2, (2, -1)).transpose(1, 2)

    def forward(m, x):
        q, k, v = (heads(f(x)) for f in (m.q, m.k, m.v))
        y = functional.scaled_dot_product_attention(q, k, v)
        return m.out(y.transpose(1, 2).flatten(2))

    model = net(
        forward,
        q=nn.Linear(12, 12),
        k=nn.Linear(12, 12),
        v=nn.Linear(12, 12),
        out=nn.Linear(12, 5),
    )
    x = torch.randn(2, 5, 12).double()
    # Batch x heads x tokens x tokens, times the width of a head, twice.
    # Torch's counter knows no fused attention on the CPU; narrowed values
    # make it fall back to two products.
    fused = 2 * (2 * 2 * 5 * 5 * 6)
    result = agree(model, x, uncounted=(fused, 0))
    assert result.groups == {'v': 6}


def test_multihead_attention_of_torch(net, agree):
    """Not fused into one operator that has no rule and no multiply-adds."""

    def forward(m, x):
        x = m.a(x)
        return m.b(m.mha(x, x, x)[0])

    model = net(
        forward,
        a=nn.Linear(4, 8),
        mha=nn.MultiheadAttention(8, 2, batch_first=True),
        b=nn.Linear(8, 5),
    )
    x = torch.randn(2, 5, 4).double()
    record = trace(model, lambda: model(x))
    assert record.unknown == {}
    product = 2 * 2 * 5 * 5 * 4
    counted = sum(map(multiply_adds, record.calls))
    linear = 2 * 5 * (4 * 8 + 8 * 24 + 8 * 8 + 8 * 5)
    assert counted == linear + 2 * product


def test_a_weight_measured_by_vectors(net, conv, image, agree):
    """W / (u^T W v), and u and v lose what the weight does."""

    def forward(m, x):
        sigma = m.u.dot(m.weight.flatten(1).mv(m.v))
        return m.b(functional.conv2d(m.a(x), m.weight / sigma, padding=1))

    model = net(
        forward,
        a=conv(3, 8),
        weight=nn.Parameter(torch.randn(6, 8, 3, 3)),
        u=torch.randn(6),
        v=torch.randn(72),
        b=conv(6, 5),
    )
    slim = agree(model, image).slim
    assert (slim.u.shape, slim.v.shape) == ((3,), (36,))


@pytest.mark.parametrize(
    'function', [lambda w, x: w.mv(x), lambda w, x: w * x.dot(x)]
)
def test_vectors_that_are_no_weights_are_frozen(net, frozen, function):
    """They would be layers, or attention, that no cost counts."""
    model = net(
        lambda m, x: m.b(function(m.weight, m.a(x)[0])),
        a=nn.Linear(3, 8),
        weight=nn.Parameter(torch.randn(8, 8)),
        b=nn.Linear(8, 5),
    )
    x = torch.randn(1, 3, dtype=torch.float64)
    assert frozen(model, x)['a'].endswith('unknown here')


@pytest.mark.parametrize('function', [torch.sparse.mm, torch.matmul])
def test_neighbours_in_a_sparse_graph(net, agree, function):
    """Each channel of the nodes is summed up by itself."""
    edges = torch.randint(12, (2, 40))
    graph = torch.sparse_coo_tensor(edges, torch.rand(40), (12, 12))
    model = net(
        lambda m, x: m.b(function(m.graph, m.a(x)).relu()),
        a=nn.Linear(3, 8),
        b=nn.Linear(8, 5),
        graph=graph.coalesce(),
    )
    nodes = torch.randn(12, 3, dtype=torch.float64)
    result = agree(model, nodes)
    assert result.groups == {'a': 8}
    assert result.slim.graph.layout is torch.sparse_coo
