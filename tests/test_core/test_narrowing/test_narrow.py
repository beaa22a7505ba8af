# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from mmlapp.core import ChannelPlan, PruningError, attach, shrink
from mmlapp.core.narrowing.narrow import detach
from mmlapp.core.plan.plan import BranchPlan, Kept


@pytest.fixture
def make(net, conv):
    """A small network as a config would build it again."""

    def build():
        return net(
            lambda m, x: m.c(m.norm(m.b(m.a(x).relu())).relu()),
            a=conv(3, 8),
            b=conv(8, 8),
            norm=nn.BatchNorm2d(8),
            c=conv(8, 5),
        ).eval()

    return build


@pytest.fixture
def planned(make, image, mask_randomly, randomise):
    """A masked network, its plan and its output."""

    def build(bypass=None, unit='channels'):
        model = randomise(make())
        pruner = attach(model, image, bypass=bypass, unit=unit)
        mask_randomly(pruner)
        with torch.no_grad():
            return model, pruner.plan(), model(image)

    return build


def picture(model):
    """All that shrinking may change, for comparisons."""
    return {
        'classes': [type(m) for m in model.modules()],
        'names': [n for n, _ in model.named_modules()],
        'attributes': [
            {k: v for k, v in vars(m).items() if isinstance(v, int)}
            for m in model.modules()
        ],
        'tensors': {
            k: id(v) for k, v in model.state_dict(keep_vars=True).items()
        },
        'values': {k: v.clone() for k, v in model.state_dict().items()},
        'hooks': len(model._forward_pre_hooks),
    }


def assert_same(a, b):
    values = [x.pop('values') for x in (a, b)]
    assert a == b
    for key, value in values[0].items():
        assert torch.equal(value, values[1][key])


def test_it_works_in_place_and_returns_the_model(planned):
    model, plan, _ = planned()
    assert shrink(model, plan) is model


def test_nothing_of_the_pruning_is_left(planned, make):
    model, plan, _ = planned()
    shrink(model, plan)
    plain = make()
    assert [type(m) for m in model.modules()] == [
        type(m) for m in plain.modules()
    ]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert not model._forward_pre_hooks
    assert not any('_masks' in vars(m) for m in model.modules())


def test_attributes_follow(planned):
    model, plan, _ = planned()
    shrink(model, plan)
    assert repr(model.b) == repr(nn.Conv2d(4, 4, 3, padding=1))
    assert repr(model.norm) == repr(nn.BatchNorm2d(4))
    assert model.norm.running_var.shape == (4,)


@pytest.mark.parametrize(
    ('kind', 'unit'),
    [
        (None, 'channels'),
        *product(('depthwise', 'pointwise'), ('channels', 'filters')),
    ],
)
def test_a_plan_and_a_state_dict_restore_the_network(
    planned, make, image, kind, unit, tmp_path
):
    model, plan, masked = planned(kind, unit)
    shrink(model, plan)
    plan.save(tmp_path / 'plan.json')
    torch.save(model.state_dict(), tmp_path / 'slim.pth')

    fresh = shrink(make(), ChannelPlan.load(tmp_path / 'plan.json'))
    fresh.load_state_dict(torch.load(tmp_path / 'slim.pth'))
    with torch.no_grad():
        torch.testing.assert_close(fresh(image), masked)


def test_a_narrowed_network_trains(planned, image):
    model, plan, _ = planned()
    shrink(model, plan).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model.b.weight.detach().clone()
    model(image).square().mean().backward()
    optimizer.step()
    assert (model.b.weight != before).all()


def test_frozen_parameters_stay_frozen(planned):
    model, plan, _ = planned()
    model.a.requires_grad_(False)
    shrink(model, plan)
    assert not model.a.weight.requires_grad
    assert model.b.weight.requires_grad


def test_memory_format_is_kept(planned, image):
    model, plan, masked = planned()
    model.to(memory_format=torch.channels_last)
    shrink(model, plan)
    assert model.b.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(image), masked)


def test_hooks_of_the_user_stay(planned, image):
    calls = []
    model, plan, _ = planned()
    model.register_forward_hook(lambda *args: calls.append(1))
    model.register_forward_pre_hook(lambda *args: calls.append(2))
    shrink(model, plan)(image)
    assert calls == [2, 1]


def test_detach_leaves_the_dense_network(planned, make, image):
    model, _, _ = planned()
    state = {
        k: v.clone()
        for k, v in model.state_dict().items()
        if not k.startswith('pruner')
    }
    detach(model)
    plain = make()
    plain.load_state_dict(state)
    assert torch.equal(model(image), plain(image))
    assert type(model.norm) is nn.BatchNorm2d


def test_a_plan_that_keeps_all_changes_nothing(make, image):
    model = make()
    pruner = attach(model, image)
    expected = model(image)
    plan = pruner.plan()
    assert plan.slices == {}
    assert torch.equal(shrink(model, plan)(image), expected)


def kept(size, *index):
    return Kept(size, index)


def changed(plan, **entries):
    return replace(plan, **entries)


GROUPED = {'type': 'grouped'}
MISFITS = {
    'another width': (
        lambda p: changed(p, slices={'a.weight': {0: kept(16, 0)}}),
        r'a\.weight has shape \(8, 3, 3, 3\), the plan expects 16',
    ),
    'another layer': (
        lambda p: changed(p, slices={**p.slices, 'z.weight': {0: kept(8)}}),
        r'it has no z\.weight',
    ),
    'another dimension': (
        lambda p: changed(p, slices={'a.bias': {1: kept(8, 0)}}),
        r'a\.bias has shape \(8,\)',
    ),
    'a layer without tensors': (
        lambda p: changed(p, slices={'a.scale': {0: kept(8, 0)}}),
        r'it has no a\.scale',
    ),
    'another attribute': (
        lambda p: changed(p, attributes={'z.groups': kept(8, 0)}),
        r'it has no z\.groups',
    ),
    'an attribute of another number': (
        lambda p: changed(p, attributes={'a.groups': kept(8, 0)}),
        r'a\.groups is 1, the plan expects 8',
    ),
    'a bypass at no layer': (
        lambda p: changed(
            p,
            branches={'z': BranchPlan(GROUPED, kept(8, 0), kept(8, 0))},
        ),
        'it has no z',
    ),
    'a bypass at a norm': (
        lambda p: changed(
            p,
            branches={'norm': BranchPlan(GROUPED, kept(8, 0), kept(8, 0))},
        ),
        'BatchNorm2d takes no bypass',
    ),
    'a bypass of another width': (
        lambda p: changed(
            p,
            branches={'b': BranchPlan(GROUPED, kept(4, 0), kept(8, 0))},
        ),
        'b joins 8 to 8 channels, the plan expects 4 and 8',
    ),
    'an unknown bypass': (
        lambda p: changed(
            p,
            branches={
                'b': BranchPlan({'type': 'wide'}, kept(8, 0), kept(8, 0))
            },
        ),
        "bypass='wide' is unknown",
    ),
    'unknown settings of a bypass': (
        lambda p: changed(
            p,
            branches={
                'b': BranchPlan(
                    {**GROUPED, 'width': 2}, kept(8, 0), kept(8, 0)
                )
            },
        ),
        'it takes norm',
    ),
    'an unknown unit': (
        lambda p: changed(p, unit='blocks'),
        "unit='blocks' is unknown",
    ),
    'details of another unit': (
        lambda p: changed(p, details={'b': {'outputs': kept(8, 0)}}),
        'b: Channels has no details',
    ),
    'filters of another width': (
        lambda p: changed(
            p, unit='filters', details={'b': {'outputs': kept(9, 0)}}
        ),
        'b: it has 8 outputs',
    ),
}


@pytest.mark.parametrize(
    ('have', 'want', 'match'),
    [
        ('depthwise', 'pointwise', 'b has another bypass than pointwise'),
        ('depthwise', None, 'b has a bypass, the plan none'),
    ],
)
def test_a_plan_of_another_bypass_changes_nothing(planned, have, want, match):
    model, _, _ = planned(have)
    _, plan, _ = planned(want)
    before = picture(model)
    with pytest.raises(PruningError, match=match):
        shrink(model, plan)
    assert_same(before, picture(model))


@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('name', MISFITS)
def test_a_plan_that_does_not_fit_changes_nothing(planned, make, name, masked):
    change, match = MISFITS[name]
    model, plan, _ = planned()
    if not masked:
        model = make()
    before = picture(model)
    with pytest.raises(PruningError, match=match):
        shrink(model, change(plan))
    assert_same(before, picture(model))


def test_narrowing_twice_is_refused(planned):
    model, plan, _ = planned()
    shrink(model, plan)
    before = picture(model)
    with pytest.raises(PruningError, match='does not fit'):
        shrink(model, plan)
    assert_same(before, picture(model))


def test_copies_are_independent(planned, image):
    model, plan, masked = planned()
    shrink(copy.deepcopy(model), plan)
    assert torch.equal(model(image), masked)
