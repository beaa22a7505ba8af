# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError, attach
from mmlapp.core.criteria import (
    Calibration,
    ScoreComparison,
    compare_scores,
)


@pytest.fixture
def made():
    """Three scores of two groups, of four and two channels."""
    return ScoreComparison(
        {'a': 4, 'b': 2},
        {
            'one': torch.tensor([1.0, 2, 3, 4, 10, 20]).double(),
            'two': torch.tensor([100, 101, 102, 103, 20.0, 10]).double(),
            'random': torch.tensor([4.0, 3, 2, 1, 10, 20]).double(),
        },
        {},
        {
            'one': torch.tensor([0, 0, 1, 1, 0, 1]).bool(),
            'two': torch.tensor([0, 1, 0, 1, 1, 0]).bool(),
            'random': torch.tensor([1, 1, 0, 0, 0, 1]).bool(),
        },
    )


def test_correlations_of_groups_of_all_and_their_mean(made):
    assert made.correlation('a')[0].tolist() == pytest.approx([1, 1, -1])
    assert made.correlation('b')[0].tolist() == pytest.approx([1, -1, 1])
    assert made.within_groups()[0].tolist() == pytest.approx([1, 0, 0])
    # Ranks 1 2 3 4 5 6 and 3 4 5 6 2 1: 1 - 6 (4 * 4 + 9 + 25) / 210.
    expected = 1 - 6 * 50 / 210
    assert float(made.correlation()[0, 1]) == pytest.approx(expected)


def test_a_mean_leaves_out_groups_where_a_score_is_constant(made):
    made.values['two'][:4] = 7
    assert made.within_groups()[0].tolist() == pytest.approx([1, -1, 0])


def test_scores_too_close_to_tell_channels_apart(made):
    # Standard deviation sqrt(5) / 2 of a mean of 101.5.
    (found,) = made.too_close()
    assert found[:2] == ('two', 'a')
    assert found[2] == pytest.approx(5**0.5 / 2 / 101.5)


def test_variation_without_a_mean_is_none(made):
    made.values['one'][4:] = 0
    assert made.variation('b')['one'] is None
    assert made.variation('b')['two'] == pytest.approx(1 / 3)


def test_a_group_of_one_channel_is_not_warned_of(made):
    made.groups.clear()
    made.groups.update({'a': 1, 'b': 1, 'c': 4})
    assert not {'a', 'b'} & {group for _, group, _ in made.too_close()}


def test_the_same_values_are_named(made):
    made.values['random'][4:] = made.values['one'][4:]
    assert made.same_values('a') == {}
    assert made.same_values('b') == {'random': 'one'}


def test_overlap_and_disputed_channels_by_hand(made):
    # Groups: 1 of 3 channels and 0 of 2.
    assert float(made.overlap()[0, 1]) == pytest.approx(1 / 6)
    # The control has no say: channel 0 is kept by it alone.
    assert made.disputed('a') == {1: ['two'], 2: ['one']}
    assert made.disputed('b') == {0: ['two'], 1: ['one']}


def test_the_control_alone_is_asked_where_there_is_no_other(made):
    made.values.pop('one')
    made.values.pop('two')
    assert made.voters == ['random']


def test_kept_channels_are_those_of_ranking(model, images):
    pruner = attach(model, images, method='ranking', score='fpgm')
    found = compare_scores(model, ['fpgm', 'l1'], target={'flops': 0.5})
    assert not pruner.kept_within({'flops': 0.5}, pruner.scores).all()
    assert pruner.mask.all()
    pruner.begin({'flops': 0.5}, steps=1)
    pruner.step()
    assert torch.equal(found.kept['fpgm'], pruner.mask)
    assert not torch.equal(found.kept['l1'], pruner.mask)


def test_kept_channels_cost_the_budget(model, images):
    pruner = attach(model, images)
    found = compare_scores(model, ['l2', 'random'], target={'parameters': 0.3})
    for mask in found.kept.values():
        ratio = float(pruner.cost('parameters').ratio(mask.double()))
        assert 0.29 <= ratio <= 0.3


def test_without_a_target_nothing_is_kept(model, pruner):
    assert compare_scores(model, ['l1']).kept == {}


@torch.inference_mode()
def test_scores_may_learn_where_the_caller_only_looks(model, images, pruner):
    batches = Calibration(
        1, lambda count, outputs: [lambda: model(images).square().sum()]
    )
    found = compare_scores(model, ['taylor'], calibration=batches)
    assert found.values['taylor'].amax() > 0


def test_progress_is_told(model, pruner):
    told = []
    compare_scores(model, ['l1'], target={'flops': 0.5}, progress=told.append)
    assert told == ['computing l1', 'keeping what scores rank highest']


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (dict(scores=['l9']), "score='l9' is unknown"),
        (dict(target={'flops': 2}), 'target flops=2: expected a fraction'),
        (dict(target={'flops': 0.001}), 'below the reachable minimum'),
        (dict(normalisation='some'), "normalisation='some' is unknown"),
    ],
)
def test_what_cannot_be_used(model, pruner, arguments, text):
    with pytest.raises(PruningError, match=text):
        compare_scores(model, **arguments)


def test_a_network_that_is_pruned_or_not_prunable(model, pruner):
    pruner.set_mask(torch.arange(36) != 3)
    with pytest.raises(PruningError, match='1 of 36 channels are removed'):
        compare_scores(model)
    with pytest.raises(PruningError, match=r'model=Linear .*call attach'):
        compare_scores(torch.nn.Linear(2, 2))
