# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest

from mmlapp.core import ChannelPlan, PruningError
from mmlapp.core.plan.entries import read_entries
from mmlapp.core.plan.kept import Kept
from mmlapp.core.plan.reading import digest

HALF = Kept(4, (0, 2))
PLAN = ChannelPlan(
    groups={'a': HALF},
    slices={'a.weight': {0: HALF}},
    costs={'flops': {'dense': 2.0, 'pruned': 1.0, 'target': 0.5}},
    shapes={'a.weight': (4, 3)},
    heads={'a': 3},
    kinds={'a': 'linear layer'},
)
BRANCH = {'settings': {'type': 'grouped'}, 'inputs': 0, 'outputs': 0}


def test_what_was_written_is_read():
    assert ChannelPlan(**read_entries(PLAN.to_dict())) == PLAN


@pytest.mark.parametrize('name', ['heads', 'kinds'])
def test_plans_that_do_not_tell_all_are_read(name):
    data = {k: v for k, v in PLAN.to_dict().items() if k != name}
    data['digest'] = digest({k: v for k, v in data.items() if k != 'digest'})
    assert ChannelPlan.from_dict(data) == replace(PLAN, **{name: {}})


def costs(**entries):
    return lambda d: d['costs'].update(
        flops={'dense': 1, 'pruned': 1} | entries
    )


def branch(**entries):
    return lambda d: d['branches'].update(a={**BRANCH, **entries})


DAMAGE = {
    'no groups': (lambda d: d.pop('groups'), "no 'groups'"),
    'no kept': (lambda d: d.pop('kept'), "no 'kept'"),
    'no digest': (lambda d: d.pop('digest'), "no 'digest'"),
    'another name': (lambda d: d.update(x=1), "'x': expected one of"),
    'list of slices': (
        lambda d: d.update(slices=[1]),
        'slices.* is .1.: expected entries by name',
    ),
    'null': (lambda d: d.update(attributes=None), 'attributes.* is None'),
    'beyond the list': (
        lambda d: d.update(groups={'a': 1}),
        r"groups'\]\['a'\] is 1: expected a number of the list 'kept', which",
    ),
    'negative number': (lambda d: d.update(groups={'a': -1}), 'is -1: exp'),
    'true': (lambda d: d.update(groups={'a': False}), 'is False: exp'),
    'float': (lambda d: d.update(groups={'a': 0.0}), 'is 0.0: expected'),
    'entry in place': (
        lambda d: d.update(groups={'a': [4, '0']}),
        'expected a number of the list',
    ),
    'name that is no text': (
        lambda d: d.update(groups={1: 0}),
        'a name in .* is 1: expected a text',
    ),
    'no dimension': (
        lambda d: d['slices'].update(x={'first': 0}),
        "is 'first': expected the number of a dimension",
    ),
    'dimension in another spelling': (
        lambda d: d['slices'].update({'a.weight': {'00': 0}}),
        "is '00': expected the number",
    ),
    'negative dimension': (
        lambda d: d['slices'].update({'a.weight': {'-1': 0}}),
        "is '-1': expected the number",
    ),
    'dimension of another size': (
        lambda d: d['slices'].update({'a.weight': {'1': 0}}),
        r'keeps some of 4 in dimension 1, but the tensor has shape \[4, 3\]',
    ),
    'dimension that is not there': (
        lambda d: d['slices'].update({'a.weight': {'2': 0}}),
        'dimension 2, but the tensor has shape',
    ),
    'branch without settings': (
        lambda d: d['branches'].update(a={'type': 'grouped'}),
        "no 'inputs'",
    ),
    'branch without type': (branch(settings={}), "'type'.* is None: expected"),
    'settings that are no data': (
        branch(settings={'type': 'grouped', 'x': float('inf')}),
        "'x'.* is inf: expected a text, a finite number",
    ),
    'kept of nothing': (lambda d: d.update(kept=[[4]]), 'kept.*0.*a size and'),
    'size that is a text': (
        lambda d: d.update(kept=[['4', '']]),
        "is '4': expected the size of a dimension",
    ),
    'size that is true': (lambda d: d.update(kept=[[True, '']]), 'is True'),
    'ranges as numbers': (
        lambda d: d.update(kept=[[4, [0, 2]]]),
        r'is \[0, 2\]: expected a text',
    ),
    'kept too wide': (
        lambda d: d.update(kept=[[2, '0-3']]),
        r"kept'\]\[0\]: kept indices '0-3'",
    ),
    'shape with a negative size': (
        lambda d: d.update(shapes=[[4, -3]]),
        r"shapes'\]\[0\]\[1\] is -3: expected the size",
    ),
    'heads of no group': (
        lambda d: d.update(heads={'b': 2}),
        "heads.'b'. is the width of the heads of a group that the plan does",
    ),
    'heads without a width': (
        lambda d: d.update(heads={'a': 'wide'}),
        "'a'.* is 'wide': expected the size",
    ),
    'unit that is no text': (lambda d: d.update(unit=3), "'unit'.* is 3: exp"),
    'cost of text': (costs(dense='many'), "'dense'.* is 'many': expected a f"),
    'cost of nothing': (costs(dense=0), "'dense'.* is 0: expected a finite"),
    'negative cost': (costs(pruned=-1), "'pruned'.* is -1: expected a fin"),
    'true cost': (costs(pruned=True), "'pruned'.* is True: expected a fin"),
    'NaN': (costs(pruned=float('nan')), 'is nan: expected a finite number'),
    'infinity': (costs(dense=float('inf')), 'is inf: expected a finite'),
    'huge cost': (costs(dense=10**400), 'is 1000.*: expected a finite'),
    'long cost': (costs(dense=10**5000), 'thousands of digits: expected'),
    'target above 1': (costs(target=1.5), "'target'.* is 1.5: expected a fra"),
    'unknown cost': (costs(wide=1), "'wide': expected one of"),
    'cost without pruned': (
        lambda d: d.update(costs={'flops': {'dense': 1}}),
        "no 'pruned'",
    ),
    # Well formed, but not as it was written.
    'other indices': (lambda d: d.update(kept=[[4, '0-1']]), 'its digest'),
    'other kernel': (lambda d: d.update(shapes=[[4, 5]]), 'its digest'),
    'no slices': (lambda d: d.update(slices={}), 'its digest'),
    'other heads': (lambda d: d['heads'].update(a=2), 'its digest'),
    'other kinds': (lambda d: d['kinds'].update(a='PReLU'), 'its digest'),
    'kinds of numbers': (lambda d: d['kinds'].update(a=2), 'is 2: expected'),
    'other cost': (lambda d: d['costs']['flops'].update(pruned=1.5), 'digest'),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_a_damaged_plan(name):
    data = PLAN.to_dict()
    change, match = DAMAGE[name]
    change(data)
    with pytest.raises(PruningError, match=f'plan is damaged: .*{match}'):
        ChannelPlan.from_dict(data)


def test_a_right_digest_does_not_help():
    """The entries are checked whatever it says."""
    data = {**PLAN.to_dict(), 'groups': {'a': 7}}
    data['digest'] = digest({k: v for k, v in data.items() if k != 'digest'})
    with pytest.raises(PruningError, match='is 7: expected a number of'):
        ChannelPlan.from_dict(data)
