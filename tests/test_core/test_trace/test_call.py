# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""An operator call as a rule sees it, and tensors in nested outputs."""

from collections import deque
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace

import pytest
import torch

from mmlapp.core.trace.call import Call, tensors_in

A, B, C = torch.zeros(1), torch.ones(1), torch.ones(2)


def call_of(func, *args, out=None, **kwargs):
    return Call(func._schema.name, func, args, kwargs, out)


def same(found, expected):
    """Whether the tensors are the same objects, in order."""
    return [id(t) for t in found] == [id(t) for t in expected]


def test_tensor_arguments_in_order_wherever_they_are():
    call = call_of(torch.ops.aten.cat.default, [A, None, B], 0, out=C)
    assert same(call.tensors(), [A, B])
    named = Call('aten::cat', torch.ops.aten.cat.out, ([A, B],), {'out': C}, C)
    assert same(named.tensors(), [A, B, C])


@pytest.mark.parametrize(
    ('out', 'expected'), [(A, [A]), ((A, None, B), [A, B]), (3, [])]
)
def test_tensor_results(out, expected):
    call = call_of(torch.ops.aten.relu.default, A, out=out)
    assert same(call.outputs(), expected)


def test_what_an_operator_writes():
    aten = torch.ops.aten
    assert same(call_of(aten.copy_.default, A, B).written(), [A])
    assert same(call_of(aten.add.Tensor, A, B).written(), [])
    named = Call('aten::add', aten.add.out, (A, B), {'out': C}, C)
    assert same(named.written(), [C])
    assert same(call_of(aten._foreach_neg_.default, [A, B]).written(), [A, B])
    # A view shares the storage, but nothing is written.
    assert same(call_of(aten.view.default, A, [1, 1]).written(), [])


def test_arguments_by_position_name_and_default():
    call = call_of(torch.ops.aten.sum.dim_IntList, A, [1], keepdim=True)
    assert call.argument(1, 'dim') == [1]
    assert call.argument(2, 'keepdim') is True
    assert call.argument(3, 'dtype', torch.half) is torch.half


def test_an_object_is_looked_through_once():
    kind = type('Kind', (), {'default': C})  # classes are not looked into
    output = SimpleNamespace(maps=[A], scale=2.0, kind=kind)
    output.itself = output
    assert same(tensors_in({'x': [output, output], 'y': B}), [B, A])


class Attributes(dict):
    """As those of many libraries."""


class Levels(list):
    """As what a backbone may return."""


@dataclass
class Slotted:
    maps: list
    __slots__ = ('maps',)


class Below(Slotted):
    __slots__ = 'more'


below = Below([A])
below.more = B
CONTAINERS = {
    'heir of a dictionary': (Attributes(x=A, y=[B]), [A, B]),
    'heir of a list': (Levels([A, {'x': B}]), [A, B]),
    'in an heir': (Attributes(x=Levels([A])), [A]),
    'view of a dictionary': (MappingProxyType({'x': A}), [A]),
    'set': ({A}, [A]),
    'frozen set': (frozenset([B]), [B]),
    'row': (deque([A, B]), [A, B]),
    'slots': (Slotted([A, B]), [A, B]),
    'slots of a base': (below, [B, A]),
}


@pytest.mark.parametrize('name', CONTAINERS)
def test_containers_that_pytorch_does_not_look_into(name):
    output, expected = CONTAINERS[name]
    assert same(tensors_in((C, output)), [C, *expected])
