# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers lose units and inputs, and stay recurrent layers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from mmlapp.core import attach

KINDS = {
    'GRU': (nn.GRU, {}),
    'GRU, two layers, both directions': (
        nn.GRU,
        dict(num_layers=2, bidirectional=True),
    ),
    'LSTM': (nn.LSTM, {}),
    'LSTM, two layers, both directions, no bias': (
        nn.LSTM,
        dict(num_layers=2, bidirectional=True, bias=False),
    ),
    'RNN': (nn.RNN, {}),
    'RNN, relu, three layers': (
        nn.RNN,
        dict(num_layers=3, nonlinearity='relu'),
    ),
}


def steps(x):
    """[N, C, H, W] to [N, T, C]."""
    return x.flatten(2).transpose(1, 2)


def shapes(module):
    return {name: p.shape for name, p in module.named_parameters()}


@pytest.fixture
def image():
    return torch.randn(2, 3, 5, 2, dtype=torch.float64)


@pytest.mark.parametrize('name', KINDS)
def test_units_and_inputs_go(net, conv, image, agree, name):
    """What is left is a layer of that size, with its multiply-adds."""
    kind, settings = KINDS[name]
    # Inputs of a removed channel are zero, or a half.
    act = nn.Sigmoid() if kind is nn.LSTM else nn.Identity()
    recurrent = kind(8, 6, batch_first=True, **settings)
    width = 12 if recurrent.bidirectional else 6
    model = net(
        lambda m, x: m.b(m.r(m.act(steps(m.a(x))))[0][:, -1]),
        a=conv(3, 8),
        act=act,
        r=recurrent,
        b=nn.Linear(width, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8, 'r': 6}
    slim, narrow = result.slim.r, kind(4, 3, batch_first=True, **settings)
    assert shapes(slim) == shapes(narrow)
    assert repr(slim) == repr(narrow)


def test_a_removed_unit_is_zero_at_every_step(net, conv, image):
    model = net(
        lambda m, x: m.b(m.r(steps(m.a(x)))[0]),
        a=conv(3, 8),
        r=nn.LSTM(8, 6, batch_first=True),
        b=nn.Linear(6, 5),
    )
    pruner = attach(model, image)
    names = [group.name for group in pruner.groups]
    mask = torch.ones(14, dtype=torch.bool)
    first = sum(g.size for g in pruner.groups[: names.index('r')])
    mask[first + 2] = False
    pruner.set_mask(mask)
    seen = []
    model.r.register_forward_hook(lambda module, args, out: seen.append(out))
    model(image)
    output, (state, cell) = seen[0]
    for values in (output, state, cell):
        assert not values[..., 2].any()
        assert values[..., [0, 1, 3, 4, 5]].all()


def test_a_projection_is_pruned_and_what_it_reads_is_not(
    net, conv, image, agree, frozen
):
    """PyTorch tells a projection by its making fewer than there are."""

    def make():
        return net(
            lambda m, x: m.b(m.r(steps(m.a(x)))[0]),
            a=conv(3, 8),
            r=nn.LSTM(8, 6, batch_first=True, proj_size=5, num_layers=2),
            b=nn.Linear(5, 4),
        )

    result = agree(make(), image)
    assert sorted(result.groups.values()) == [5, 8]
    narrow = nn.LSTM(4, 6, batch_first=True, proj_size=2, num_layers=2)
    assert shapes(result.slim.r) == shapes(narrow)
    assert repr(result.slim.r) == repr(narrow)
    assert frozen(make(), image)['r'].startswith('projected, and')


FIRST_STATES = {
    'learned': (lambda m, x: m.h(m.a(x).mean((2, 3)))[None], {'a': 8, 'h': 6}),
    'learned, never zero': (
        lambda m, x: m.h(m.a(x).mean((2, 3)))[None].sigmoid(),
        {'a': 8, 'h': 6},
    ),
    'a constant': (
        lambda m, x: (
            m.h(m.a(x).mean((2, 3)))[None] * 0 + x.new_full((1, 2, 6), 0.5)
        ),
        {'a': 8},
    ),
}


@pytest.mark.parametrize('kind', [nn.GRU, nn.LSTM])
@pytest.mark.parametrize('name', FIRST_STATES)
def test_first_states_have_the_units_too(net, conv, image, agree, name, kind):
    state, groups = FIRST_STATES[name]

    def forward(m, x):
        first = state(m, x)
        given = (first, first) if kind is nn.LSTM else first
        return m.b(m.r(steps(m.a(x)), given)[0])

    model = net(
        forward,
        a=conv(3, 8),
        h=nn.Linear(8, 6),
        r=kind(8, 6, batch_first=True),
        b=nn.Linear(6, 5),
    )
    assert agree(model, image).groups == groups


def test_packed_sequences_are_followed_to_their_last_states(
    net, conv, image, agree
):
    lengths = torch.tensor([10, 7])

    def forward(m, x):
        packed = pack_padded_sequence(steps(m.a(x)), lengths, batch_first=True)
        return m.b(m.r(packed)[1][0])

    model = net(
        forward,
        a=conv(3, 8),
        r=nn.GRU(8, 6, batch_first=True),
        b=nn.Linear(6, 5),
    )
    assert agree(model, image).groups == {'a': 8, 'r': 6}


def test_gates_learn_and_the_layer_can_be_copied_meanwhile(net, conv, image):
    """The gradient by a gate is that of all rows of its unit."""
    model = net(
        lambda m, x: m.b(m.r(steps(m.a(x)))[0]),
        a=conv(3, 8),
        r=nn.GRU(8, 6, batch_first=True),
        b=nn.Linear(6, 5),
    )
    pruner = attach(model, image, score='taylor')
    pruner.begin({'flops': 0.5}, 20)
    model(image).square().sum().backward()
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(image), model(image))
    first = 0 if pruner.groups[0].name == 'r' else 8
    found = pruner.gate.grad[first : first + 6]
    expected = sum(
        (p.grad * p).reshape(3, 6, -1).sum((0, 2))
        for p in model.r.parameters()
    )
    torch.testing.assert_close(found.double(), expected)


CELLS = {
    'GRU': (nn.GRUCell, lambda state: state),
    'LSTM': (nn.LSTMCell, lambda state: state[0]),
    'RNN, no bias': (
        lambda *sizes: nn.RNNCell(*sizes, bias=False),
        lambda state: state,
    ),
}


@pytest.mark.parametrize('name', CELLS)
def test_cells_in_a_loop(net, conv, image, agree, name):
    """What they return is what they are given next."""
    make, value = CELLS[name]

    def forward(m, x):
        state, values = None, []
        for step in m.a(x).flatten(2).unbind(2)[:4]:
            state = m.r(step, state)
            values.append(m.b(value(state)))
        return torch.stack(values, 1)

    model = net(forward, a=conv(3, 8), r=make(8, 6), b=nn.Linear(6, 5))
    result = agree(model, image)
    assert result.groups == {'a': 8, 'r': 6}
    assert shapes(result.slim.r) == shapes(make(4, 3))
    assert repr(result.slim.r) == repr(make(4, 3))


class Doubled(nn.GRU):
    def forward(self, x):
        return super().forward(x)[0] * 2


def test_a_forward_of_its_own_is_followed_operator_by_operator(
    net, conv, image, agree
):
    model = net(
        lambda m, x: m.b(m.r(steps(m.a(x)))),
        a=conv(3, 8),
        r=Doubled(8, 6, batch_first=True),
        b=nn.Linear(6, 5),
    )
    assert agree(model, image).groups == {'a': 8}
