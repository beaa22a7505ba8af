# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json
import tracemalloc
from dataclasses import replace

import pytest
import torch
from mutations import mutate_plan

from mmlapp.core import ChannelPlan, PruningError
from mmlapp.core.plan.entries import BranchPlan
from mmlapp.core.plan.kept import Kept


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
        shapes={'a.weight': (4, 3, 3, 3), 'b.weight': (3, 4), 'b.bias': ()},
    )


def test_a_plan_comes_back(plan):
    assert ChannelPlan.from_dict(plan.to_dict()) == plan


def test_a_plan_is_json(plan):
    text = json.dumps(plan.to_dict())
    assert ChannelPlan.from_dict(json.loads(text)) == plan
    assert ChannelPlan.from_json(plan.to_json()) == plan


def test_a_plan_is_written_as_it_was_read(plan):
    """Costs may be counted in whole numbers."""
    costs = {'flops': {'dense': 100, 'pruned': 41}}
    text = replace(plan, costs=costs).to_json()
    assert ChannelPlan.from_json(text).to_json() == text


def test_plans_of_one_shape(plan):
    assert plan.same_shape(replace(plan, costs={}, groups={}))
    assert plan.same_shape(replace(plan, heads={'a': 2}))
    two = Kept(3, (0, 2))
    for change in (
        dict(slices={**plan.slices, 'b.weight': {0: two}}),
        dict(attributes={}),
        dict(branches={}),
        dict(details={}),
        dict(unit='channels'),
    ):
        assert not plan.same_shape(replace(plan, **change))


def test_the_plan_of_a_part():
    half = Kept(4, (0, 2))
    whole = ChannelPlan(
        groups={'body.a': half, 'head': half},
        heads={'body.a': 16, 'head': 8},
        slices={'body.a.weight': {0: half}, 'head.weight': {1: half}},
        attributes={'body.a.out_channels': half},
        branches={'body.a': BranchPlan({'type': 'depthwise'}, half, half)},
        details={'body.a': {'outputs': half}},
        costs={'flops': {'dense': 2.0, 'pruned': 1.0}},
        shapes={'body.a.weight': (4, 4), 'head.weight': (2, 4)},
    )
    for prefix in ('body', 'body.'):
        part = whole.below(prefix)
        assert part == ChannelPlan(
            groups={'a': half},
            heads={'a': 16},
            slices={'a.weight': {0: half}},
            attributes={'a.out_channels': half},
            branches=dict(a=whole.branches['body.a']),
            details={'a': {'outputs': half}},
            shapes={'a.weight': (4, 4)},
        )
        assert ChannelPlan.from_json(part.to_json()) == part
    with pytest.raises(PruningError, match=r"'bo': .* are body, head"):
        whole.below('bo')


def test_what_was_asked_for(plan):
    """Parameters were counted, but had no target."""
    assert plan.targets() == {'flops': 0.42}


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


@pytest.mark.parametrize('version', [0, 1, '3', 3.0, True, None])
def test_an_unknown_version(plan, version):
    data = {**plan.to_dict(), 'version': version}
    with pytest.raises(PruningError, match=f'version {version!r}.*version 4'):
        ChannelPlan.from_dict(data)


def test_what_is_no_text():
    for text in (None, 3, {}):
        with pytest.raises(PruningError, match=r'text=.*expected the JSON of'):
            ChannelPlan.from_json(text)


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / 'none.json', '/dev/zero'):
        with pytest.raises(PruningError, match=f"='{path}': there is no such"):
            ChannelPlan.load(path)


def test_a_file_that_may_not_be_read(plan, tmp_path, monkeypatch):
    path = tmp_path / 'plan.json'
    plan.save(path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(type(path), 'read_text', refuse)
    with pytest.raises(PruningError, match=r'plan\.json.*\(Permission denied'):
        ChannelPlan.load(path)


def test_a_mark_of_the_byte_order_is_no_damage(plan, tmp_path):
    path = tmp_path / 'plan.json'
    path.write_bytes(b'\xef\xbb\xbf' + plan.to_json().encode())
    assert ChannelPlan.load(path) == plan


def test_the_order_of_names_is_no_change(plan):
    data = plan.to_dict()
    assert ChannelPlan.from_dict(dict(reversed(data.items()))) == plan


HOSTILE = {
    'deep nesting': lambda text: '[' * 10**5,
    'deep settings': lambda text: text.replace(
        '"depthwise"', '[' * 500 + ']' * 500
    ),
    'long integer': lambda text: text[:-1] + ',"x":' + '9' * 5000 + '}',
    'long cost': lambda text: text.replace('41.5', '9' * 4000),
    'infinite size': lambda text: text.replace('[3,"0-1"]', '[Infinity,""]'),
    'infinite cost': lambda text: text.replace('41.5', '1e999'),
    'huge range': lambda text: text.replace(
        '[3,"0-1"]', f'[{10**12},"0-{10**12 - 1}"]'
    ),
    'wide range': lambda text: text.replace(
        '[3,"0-1"]', f'[{2**31 - 1},"0-{2**31 - 2}"]'
    ),
    'many ranges': lambda text: text.replace(
        '[3,"0-1"]', f'[{10**6},"{"0-999999," * 2000}"]'
    ),
    'huge tensor': lambda text: text.replace('[3,4]', f'[{10**12},4]'),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_file_takes_no_memory(plan, name):
    text = HOSTILE[name](plan.to_json())
    tracemalloc.start()
    with pytest.raises(PruningError, match='the channel plan is'):
        ChannelPlan.from_json(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * len(text) + 2_000_000


def test_a_range_takes_memory_in_proportion_to_its_text(plan):
    """Even where the numbers are well formed and the digest is right."""
    huge = Kept(2**31 - 1, ())
    huge._set(2**31 - 1, [(0, 2**31 - 2)])
    text = replace(plan, details={'a': {'outputs': huge}}).to_json()
    tracemalloc.start()
    assert ChannelPlan.from_json(text).details['a']['outputs'] == huge
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000


def test_mutations_are_refused_or_mean_the_same(plan):
    text = plan.to_json()
    refused = 0
    for seed in range(400):
        try:
            mutated = ChannelPlan.from_json(mutate_plan(text, seed).decode())
        except (PruningError, UnicodeDecodeError):
            refused += 1
            continue
        assert mutated == plan, f'seed {seed}'
    assert refused > 300


def test_a_version_of_many_digits(plan):
    with pytest.raises(PruningError, match='version a number of thousands of'):
        ChannelPlan.from_dict({**plan.to_dict(), 'version': 10**5000})
