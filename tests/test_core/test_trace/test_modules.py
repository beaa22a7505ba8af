# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which modules run, in which order, and who is followed as a whole."""

import pytest
import torch
from torch import nn

from mmlapp.core import register_block
from mmlapp.core.trace import running_modules, trace
from mmlapp.core.trace.blocks import registry


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class Failing(nn.Module):
    def forward(self, x):
        raise ValueError('no')


class Tolerant(Outer):
    def forward(self, x):
        try:
            return self.inner(x)
        except ValueError:
            return x


def test_the_innermost_module_is_last():
    leaf = nn.ReLU()
    model = Outer(leaf)
    seen = []
    with running_modules(
        model.modules(), lambda m: seen.append(list(stack))
    ) as stack:
        model(torch.rand(2))
    assert seen == [[model], [model, leaf]]
    assert stack == []


def test_modules_leave_from_the_inside():
    leaf = nn.ReLU()
    model = Outer(leaf)
    seen = []

    def left(module, args, out):
        seen.append((module, args[0].tolist(), out.tolist()))

    with running_modules(model.modules(), left=left):
        model(torch.tensor([-1.0]))
    assert seen == [(leaf, [-1.0], [0.0]), (model, [-1.0], [0.0])]


def test_arguments_by_name_come_in_the_order_of_the_forward():
    model = nn.Bilinear(1, 2, 3)
    a, b, seen = torch.rand(4, 1), torch.rand(4, 2), []
    with running_modules(
        model.modules(), left=lambda m, args, out: seen.append(args)
    ):
        model(input2=b, input1=a)
        model(a, input2=b)
    assert all(x is a and y is b for x, y in seen)


def test_modules_of_others_are_not_seen():
    with running_modules([nn.ReLU()], lambda m: pytest.fail('seen')) as stack:
        nn.Tanh()(torch.rand(2))
        assert stack == []


def test_a_module_left_by_an_exception_does_not_stay():
    """Tolerant goes on after it: what runs then is not inside of it."""
    tail = nn.ReLU()
    model = nn.Sequential(Tolerant(Failing()), tail)
    seen = {}
    with running_modules(
        model.modules(), lambda m: seen.update({m: list(stack)})
    ) as stack:
        model(torch.rand(2))
    assert seen[tail] == [model, tail]


def test_hooks_are_gone_afterwards():
    model = nn.ReLU()
    seen = []
    with running_modules(model.modules(), seen.append):
        model(torch.rand(2))
    model(torch.rand(2))
    assert seen == [model]
    assert not torch.nn.modules.module._has_any_global_hook()


def test_calls_are_in_the_order_in_which_they_begin():
    relu = nn.ReLU()
    model = nn.Sequential(Outer(relu), relu)
    record = trace(model, lambda: model(torch.rand(2)))
    assert record.order == ['', '0', '0.inner', '0.inner']


def test_inside_a_whole_neither_operators_nor_wholes_have_rules(monkeypatch):
    monkeypatch.setattr(registry, 'BLOCKS', dict(registry.BLOCKS))
    seen = []
    register_block(
        'Outer',
        rule=lambda tracer, module, args, out: seen.append(module),
        rule_applies=lambda module: True,
    )
    inner = Outer(nn.Identity())
    inner.forward = lambda x: x.cumsum(0)  # has no rule
    model = Outer(inner)
    record = trace(model, lambda: model(torch.rand(2)))
    assert seen == [model]
    assert record.unknown == {}
    assert record.order == ['', 'inner']


def test_fused_attention_calls_its_modules():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    seen = []
    before = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad(), running_modules(layer.modules(), seen.append):
        layer(torch.rand(1, 3, 4))
    # All but those that take turns with nothing in evaluation mode.
    assert {layer.self_attn, layer.linear1, layer.norm2} <= set(seen)
    assert torch.backends.mha.get_fastpath_enabled() == before
