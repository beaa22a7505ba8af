# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The comparison of two checkpoints, without training."""

import copy
from dataclasses import replace

import pytest
import torch
from bit_identity import (
    CASES,
    NEW,
    REFERENCE,
    ROOT,
    Verdict,
    compare,
    config_text,
)
from mmengine.config import Config

IDENTICAL = Verdict(tensors=3, first=None)


@pytest.fixture
def pair():
    """A checkpoint as both trees write it, and a copy."""
    checkpoint = {
        'state_dict': {
            'a.weight': torch.tensor([[1.0, 0.0], [float('nan'), 2.0]]),
            'a.branch.weight': torch.ones(2, dtype=torch.bfloat16),
            'norm.num_batches_tracked': torch.tensor(7),
            'own.mask': torch.tensor([True, False]),
        },
        'plan': {
            'groups': {'a': 0, 'b': 1},
            'slices': {
                'a.weight': {'0': 0, '1': 1},
                'a.branch.weight': {'0': 0},
            },
            'kept': [[4, '0-1'], [3, '0,2']],
        },
    }
    return checkpoint, copy.deepcopy(checkpoint)


@pytest.fixture
def verdict(pair):
    """Compares the pair, as it is by then."""
    words = replace(NEW, own=('own.',), plan='plan', renamed={})

    def run(**new):
        return compare(*pair, (words, replace(words, **new)))

    return run


def test_copies_are_identical(verdict):
    assert verdict() == IDENTICAL


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('a.weight', torch.tensor([[1.0, -0.0], [float('nan'), 2.0]])),
        ('a.weight', torch.tensor([[1.0, 0.0, float('nan'), 2.0]])),
        ('a.branch.weight', torch.ones(2, dtype=torch.float16)),
        ('norm.num_batches_tracked', torch.tensor(8)),
    ],
    ids=['bit', 'shape', 'type', 'number'],
)
def test_a_weight_differs(pair, verdict, name, value):
    pair[1]['state_dict'][name] = value
    assert verdict() == Verdict(3, name)


@pytest.mark.parametrize('tree', ['reference', 'new'])
def test_a_weight_is_in_one_of_them(pair, verdict, tree):
    pair[tree == 'reference']['state_dict'].pop('a.weight')
    assert verdict() == Verdict(2, f'a.weight: in the {tree} alone')


def test_the_state_of_the_pruning_is_left_out(pair, verdict):
    weights = pair[1]['state_dict']
    weights['other.mask'] = ~weights.pop('own.mask')
    assert verdict() == Verdict(3, 'other.mask: in the new alone')
    assert verdict(own=('none.', 'other.')) == IDENTICAL


def test_a_part_has_another_name(pair, verdict):
    for table in pair[1]['state_dict'], pair[1]['plan']['slices']:
        table['a.extra.weight'] = table.pop('a.branch.weight')
    first = 'a.branch.weight: in the reference alone'
    assert verdict() == Verdict(2, first)
    assert verdict(renamed={'extra': 'branch'}) == IDENTICAL


def test_keys_have_other_names(pair, verdict):
    plan = pair[1]['new_plan'] = pair[1].pop('plan')
    plan['units'] = plan.pop('groups')
    plan['indices'] = plan.pop('kept')
    assert verdict() == Verdict(0, 'new has no plan')
    renamed = dict(plan='new_plan', groups='units', kept='indices')
    assert verdict(**renamed) == IDENTICAL


def test_the_numbering_of_a_plan_means_nothing(pair, verdict):
    plan = pair[1]['plan']
    plan['kept'].reverse()
    plan['groups'] = {'b': 0, 'a': 1}
    plan['slices'] = {
        'a.branch.weight': {'0': 1},
        'a.weight': {'0': 1, '1': 0},
    }
    assert verdict() == IDENTICAL


def test_a_group_keeps_other_channels(pair, verdict):
    plan = pair[1]['plan']
    plan['groups']['b'] = 2
    plan['kept'].append([3, '0-1'])
    assert verdict() == Verdict(3, 'group b')


def test_a_parameter_keeps_other_channels(pair, verdict):
    pair[1]['plan']['slices']['a.weight']['1'] = 0
    assert verdict() == Verdict(3, 'slices of a.weight')


def test_two_empty_plans_are_no_proof(pair, verdict):
    for checkpoint in pair:
        checkpoint['plan']['groups'] = {}
    assert verdict() == Verdict(3, 'nothing to compare')


@pytest.mark.parametrize('name', CASES)
def test_a_config_adds_its_settings_to_the_recipe(tmp_path, name):
    recipe, settings = ROOT / NEW.recipe, CASES[name].new
    path = tmp_path / 'case.py'
    path.write_text(config_text(recipe, NEW, settings, seed=3, epochs=5))
    found, expected = Config.fromfile(path), Config.fromfile(recipe)
    settings = {**settings}
    expected.custom_hooks[-1].update(NEW.hook)
    expected.custom_hooks[-1].update(settings.pop('hook', {}))
    expected.custom_hooks[-1][NEW.phase] = 2
    expected.randomness.seed = 3
    expected.train_cfg.max_epochs = 5
    expected.merge_from_dict(settings)
    assert found.to_dict() == expected.to_dict()


def test_a_config_may_leave_the_recipe_as_it_is(tmp_path):
    recipe = ROOT / REFERENCE.recipe
    path = tmp_path / 'plain.py'
    path.write_text(config_text(recipe, REFERENCE, {}, seed=0, epochs=None))
    found, base = Config.fromfile(path), Config.fromfile(recipe)
    base.randomness.seed = 0
    assert found.to_dict() == base.to_dict()
