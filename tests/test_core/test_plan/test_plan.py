# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch

from mmlapp.core import ChannelPlan, PruningError
from mmlapp.core.plan.plan import BranchPlan, Kept


@pytest.fixture
def plan():
    half, two = Kept(4, (0, 2)), Kept(3, (0, 1))
    return ChannelPlan(
        groups={'a': half, 'b#2': two},
        slices={'a.weight': {0: half}, 'b.weight': {0: two, 1: half}},
        attributes={'b.groups': half},
        branches={'a': BranchPlan({'type': 'depthwise'}, two, half)},
        details={'a': {'outputs': half}},
        unit='filters',
        costs={
            'flops': {'dense': 100.0, 'pruned': 41.5, 'target': 0.42},
            'parameters': {'dense': 10.0, 'pruned': 5.0},
        },
    )


@pytest.mark.parametrize(
    ('index', 'text'),
    [
        ((), ''),
        ((0,), '0'),
        ((0, 1), '0-1'),
        ((1, 3, 5), '1,3,5'),
        ((0, 1, 2, 5, 7, 8), '0-2,5,7-8'),
    ],
)
def test_ranges(index, text):
    assert Kept(9, index).text() == text
    assert Kept.parse(9, text) == Kept(9, index)


def test_masks_and_texts_of_random_indices_come_back():
    for _ in range(50):
        mask = torch.rand(40) > 0.4
        kept = Kept.from_mask(mask)
        assert torch.equal(kept.mask(), mask)
        assert Kept.parse(40, kept.text()) == kept


@pytest.mark.parametrize('index', [(1, 0), (2, 2), (-1, 0), (3, 4), (4,)])
def test_indices_outside_or_out_of_order(index):
    with pytest.raises(PruningError, match='ascending numbers from 0 to 3'):
        Kept(4, index)


@pytest.mark.parametrize(
    'text', ['a', '1-', '-1', '1;2', '3-1', '0-3-5', '1.5']
)
def test_malformed_ranges(text):
    with pytest.raises(PruningError, match='kept indices'):
        Kept.parse(9, text)


def test_a_damaged_range_takes_no_memory():
    with pytest.raises(PruningError, match='kept indices'):
        Kept.parse(9, f'0-{10**15}')


def test_a_plan_comes_back(plan):
    assert ChannelPlan.from_dict(plan.to_dict()) == plan


def test_a_plan_is_json(plan):
    text = json.dumps(plan.to_dict())
    assert ChannelPlan.from_dict(json.loads(text)) == plan
    assert ChannelPlan.from_json(plan.to_json()) == plan


def test_a_plan_is_frozen(plan):
    with pytest.raises(AttributeError):
        plan.groups = {}


def test_a_file_comes_back(plan, tmp_path):
    path = tmp_path / 'plan.json'
    plan.save(path)
    assert ChannelPlan.load(str(path)) == plan
    assert [p.name for p in tmp_path.iterdir()] == ['plan.json']


def test_an_interrupted_write_keeps_the_old_file(plan, tmp_path, monkeypatch):
    path = tmp_path / 'plan.json'
    plan.save(path)
    monkeypatch.setattr('os.replace', None)
    with pytest.raises(TypeError):
        ChannelPlan({}, {}).save(path)
    assert ChannelPlan.load(path) == plan


def test_a_truncated_file(plan, tmp_path):
    path = tmp_path / 'plan.json'
    plan.save(path)
    text = path.read_text()
    for length in (0, 1, len(text) // 2, len(text) - 3):
        path.write_text(text[:length])
        with pytest.raises(PruningError, match=r'plan\.json.*truncated'):
            ChannelPlan.load(path)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / 'model.pth'
    torch.save({'a': torch.rand(3)}, path)
    with pytest.raises(PruningError, match=r'model\.pth'):
        ChannelPlan.load(path)


@pytest.mark.parametrize('data', [{}, {'groups': {}}, [], None, 3, 'text'])
def test_what_is_no_plan(data, tmp_path):
    path = tmp_path / 'plan.json'
    path.write_text(json.dumps(data))
    with pytest.raises(PruningError, match='no channel plan'):
        ChannelPlan.load(path)


@pytest.mark.parametrize('version', [0, 1, '2', None])
def test_an_unknown_version(plan, version):
    data = {**plan.to_dict(), 'version': version}
    with pytest.raises(PruningError, match=f'version {version!r}.*version 2'):
        ChannelPlan.from_dict(data)


DAMAGE = {
    'no groups': lambda d: d.pop('groups'),
    'no slices': lambda d: d.pop('slices'),
    'list of slices': lambda d: d.update(slices=[1]),
    'text of groups': lambda d: d.update(groups='a'),
    'number beyond the list': lambda d: d.update(groups={'a': 99}),
    'negative number': lambda d: d.update(groups={'a': -1}),
    'no dimension': lambda d: d['slices'].update(x={'first': 0}),
    'not a bypass': lambda d: d['branches'].update(x={'type': 'fill'}),
    'kept of nothing': lambda d: d.update(kept=[[4]]),
    'kept too wide': lambda d: d.update(kept=[[2, '0-3']]),
    'cost of text': lambda d: d.update(costs={'flops': {'dense': 'many'}}),
    'null': lambda d: d.update(attributes=None),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_a_damaged_plan(plan, name):
    data = plan.to_dict()
    DAMAGE[name](data)
    with pytest.raises(PruningError, match=r'damaged|kept indices'):
        ChannelPlan.from_dict(data)
