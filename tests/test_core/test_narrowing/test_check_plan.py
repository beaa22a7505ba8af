# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A plan that does not fit is refused before anything changes."""

from dataclasses import replace

import pytest
import torch

from mmlapp.core import PruningError, narrow
from mmlapp.core.plan.plan import BranchPlan, Kept


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
        narrow(model, plan)
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
        narrow(model, change(plan))
    assert_same(before, picture(model))


def test_narrowing_twice_is_refused(planned):
    model, plan, _ = planned()
    narrow(model, plan)
    before = picture(model)
    with pytest.raises(PruningError, match='does not fit'):
        narrow(model, plan)
    assert_same(before, picture(model))
