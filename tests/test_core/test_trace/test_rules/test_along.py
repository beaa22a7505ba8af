# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Operators along one dimension leave the channels beside it alone."""

import pytest
import torch
from torch import nn

from mmlapp.core.trace.record import INPUT_REASON

FIRST = torch.tensor([0, 0, 3])
OPERATORS = {
    'cumsum': lambda x: x.cumsum(-1),
    'cumprod': lambda x: x.tanh().cumprod(2),
    'cummax': lambda x: x.cummax(-1).values,
    'cummin': lambda x: x.cummin(-1)[0],
    'sort': lambda x: x.sort(2).values,
    'topk': lambda x: x.topk(3, dim=-1).values,
    'kthvalue': lambda x: x.kthvalue(2, -1, keepdim=True).values,
    'median': lambda x: x - x.flatten(2).median(-1).values[..., None, None],
    'nanmedian': lambda x: x - x.nanmedian(-1, keepdim=True).values,
    'mode': lambda x: x - x.relu().mode(3, keepdim=True).values,
    'aminmax': lambda x: x - x.aminmax(dim=2, keepdim=True).max,
    'quantile': lambda x: x - x.quantile(0.5, -1, keepdim=True),
    'tril': lambda x: x.tril(),
    'triu': lambda x: x + x.triu(1),
    'diagonal': lambda x: x + x.diagonal(0, 2, 3)[..., None],
    'logsumexp': lambda x: x - x.logsumexp((2, 3))[..., None, None],
    'logcumsumexp': lambda x: x.logcumsumexp(-1),
    'order': lambda x: x.gather(-1, x.argsort(-1)),
    'places': lambda x: torch.zeros_like(x).scatter(-1, x.argsort(-1), x),
    'row': lambda x: x.index_add(2, FIRST, x[:, :, 2:5]),
    'copied': lambda x: x.index_copy(2, FIRST[1:], x[:, :, 2:4] * 2),
    'filled': lambda x: x.index_fill(3, FIRST, 0.0),
    'filled with one': lambda x: x.index_fill(3, FIRST, 1.0),
    'largest of all': lambda x: x.scatter_reduce(
        2, torch.ones_like(x, dtype=torch.long), x, 'amax'
    ),
    'messages': lambda x: x.new_zeros(x.shape).scatter_add_(
        2, torch.zeros(1, dtype=torch.long).expand(x.shape), x
    ),
    'a number': lambda x: x.scatter(
        2, torch.zeros_like(x[:, :, :1], dtype=torch.long), 0.0
    ),
    'expanded': lambda x: x.index_add(
        2, FIRST, x.new_ones(1).expand(2, x.shape[1], 3, 8)
    ),
}


@pytest.mark.parametrize('name', OPERATORS)
def test_operators_along_space(net, conv, image, agree, name):
    model = net(
        lambda m, x: m.b(OPERATORS[name](m.a(x))), a=conv(3, 8), b=conv(8, 5)
    )
    assert agree(model, image).groups == {'a': 8}


OVER = {
    'cumsum': lambda x: x.cumsum(1),
    'sort': lambda x: x.sort(1).values,
    'logsumexp': lambda x: x + x.logsumexp(1, keepdim=True),
    'median of all': lambda x: x - x.median(),
    'index_add': lambda x: x.index_add(1, FIRST, torch.ones(2, 3, 8, 8).to(x)),
    'gather': lambda x: x.gather(1, x.argsort(1)),
    'tril': lambda x: x.transpose(1, 2).tril().transpose(1, 2),
}


@pytest.mark.parametrize('name', OVER)
def test_operators_along_channels(net, conv, image, frozen, name):
    model = net(
        lambda m, x: m.b(OVER[name](m.a(x))), a=conv(3, 8), b=conv(8, 5)
    )
    assert ' along its channels by aten::' in frozen(model, image)['a']


def test_a_layer_tells_where_others_are_read(net, conv, image, agree):
    """Indices of each channel go with the channel that they pick from."""

    def forward(m, x):
        places = (m.b(x) * 1e3).round().argsort(-1)
        return m.c(m.a(x).gather(-1, places))

    model = net(forward, a=conv(3, 8), b=conv(3, 8), c=conv(8, 5))
    (group,) = agree(model, image).groups.values()
    assert group == 8


def test_fewer_indices_than_channels(net, conv, image, frozen):
    """The first channels alone are read: where they end is a constant."""

    def forward(m, x):
        y = m.a(x)
        return m.b(y.gather(-1, y[:, :4].argsort(-1)))

    model = net(forward, a=conv(3, 8), b=conv(4, 5))
    assert 'a' in frozen(model, image)


def test_a_buffer_that_is_added_follows(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(m.a(x).index_add(2, FIRST, m.rows)),
        a=conv(3, 8),
        b=conv(8, 5),
        rows=torch.randn(2, 8, 3, 8),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8}
    assert result.slim.rows.shape[1] == 4


def test_something_is_added_that_is_no_channel(net, conv, image, frozen):
    def forward(m, x):
        rows = torch.ones(2, 8, 3, 8, dtype=x.dtype)
        return m.b(m.a(x).index_add(2, FIRST, rows))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert frozen(model, image)['a'] == INPUT_REASON


def test_messages_of_a_graph(net, image, agree):
    """Edges are summed up at their ends, as by message passing."""

    def forward(m, x):
        nodes = m.a(x.flatten(2).mT)  # [N, 64, C]
        start, end = m.edges
        sent = nodes[:, start] * m.b(nodes[:, end]).relu()
        total = nodes.new_zeros(len(x), 64, sent.shape[-1])
        total.index_add_(1, end, sent)
        largest = nodes.scatter_reduce(
            1, end[None, :, None].expand_as(sent), sent, 'amax'
        )
        return m.c(torch.cat([total, largest], -1))

    model = net(
        forward,
        a=nn.Linear(3, 8),
        b=nn.Linear(8, 8),
        c=nn.Linear(16, 5),
        edges=torch.randint(64, (2, 100)),
    )
    assert agree(model, image).groups == {'a': 8}
