# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a unit may say of its own, and what it gets for nothing."""

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError, Unit, analyse, attach, register_unit
from mmlapp.core.plan.kept import Kept
from mmlapp.core.units import UNITS, Channels
from mmlapp.core.units.base import unit_name


def test_units_of_the_product_are_there():
    assert {'channels', 'filters'} <= set(UNITS)
    assert unit_name(Channels()) == 'channels'


def test_a_unit_has_a_registered_name():
    """A plan names it, and is applied by that name."""

    class Nameless(Channels):
        pass

    with pytest.raises(PruningError, match='Nameless is not registered'):
        unit_name(Nameless())


def test_parameters_and_their_dimensions(model, images):
    analysis = analyse(model, lambda: model(images))
    found = {t.name: t for t in analysis.unit.tensors(model, analysis)}
    assert list(found) == [name for name, _ in model.named_parameters()]
    assert found['b.weight'].shape == (12, 8, 3, 3)
    # 3 and 3 carry labels too, which belong to no prunable group
    nodes = found['b.weight'].dims
    assert {0, 1} <= set(nodes)
    groups = analysis.groups
    assert (groups.channels_at(nodes[0]) >= 0).all()
    assert (groups.channels_at(nodes[2]) < 0).all()


def test_calls_of_branches_come_beside_those_of_layers(model, images):
    analysis = analyse(model, lambda: model(images), bypass='grouped')
    calls = analysis.unit.branch_calls(analysis)
    assert {call.name for call in calls} == {
        f'{name}.bypass' for name in analysis.branches
    }
    layers = {call.name: call for call in analysis.unit.calls(analysis)}
    for call in calls:
        layer = layers[call.name.removesuffix('.bypass')]
        assert (call.inputs, call.outputs) == (layer.inputs, layer.outputs)


def test_a_floor_of_ones_own_holds(model, images):
    @register_unit('test_four')
    class Four(Channels):
        floor = 4

    pruner = attach(model, images, unit='test_four')
    assert pruner.floors == [4, 4, 4]
    with pytest.raises(PruningError, match='reachable minimum'):
        pruner.begin({'flops': 0.05}, 1)
    pruner.begin({'flops': 0.3}, 1)
    pruner.step()
    kept = [int(part.sum()) for part in pruner.mask.split(pruner.sizes)]
    assert min(kept) >= 4
    assert pruner.plan().unit == 'test_four'


def test_details_that_a_unit_does_not_have():
    details = {'outputs': Kept(2, (0,))}
    with pytest.raises(
        PruningError, match=r'Channels has no details.*outputs'
    ):
        Channels().check_layer(torch.nn.Conv2d(2, 2, 1), details, {})


def test_the_interface_is_abstract():
    with pytest.raises(TypeError, match='abstract'):
        Unit()


def test_who_reads_the_channels_of_a_group(net, conv, image):
    """By the input side of its weight; depthwise layers pass them on."""
    model = net(
        lambda m, x: m.up(m.depth(m.norm(m.a(x)))).mean() + m.b(m.a(x)),
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        depth=conv(8, 8, groups=8),
        up=nn.ConvTranspose2d(8, 4, 2),
        b=conv(8, 5),
    )
    pruner = attach(model, image)
    (group,) = (g for g in pruner.groups if g.name == 'a')
    assert {la.name: la.dims for la in group.layers} == {
        'a': (0,),
        'depth': (0,),
    }
    assert {la.name: la.dims for la in group.readers} == {
        'up': (0,),
        'b': (1,),
    }
    for layer in group.readers:
        assert layer.channels.tolist() == list(range(8))


def test_filters_stay_for_who_reads_them(model, images):
    pruner = attach(model, images, unit='filters', bypass='pointwise')
    assert all(not group.readers for group in pruner.groups)
