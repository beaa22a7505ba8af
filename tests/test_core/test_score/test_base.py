# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError, Score, ScoreContext, register_score
from mmlapp.core.score import SCORES


def test_scores_of_the_literature_are_there():
    names = 'l1', 'l2', 'bn_scale', 'fpgm', 'taylor', 'operation_aware'
    assert {*names, 'random'} <= set(SCORES)


def test_a_score_of_ones_own():
    @register_score('test_largest_weight')
    def largest(context):
        return context.filters.abs().amax(dim=1)

    context = ScoreContext(torch.tensor([[1.0, -3.0], [2.0, 0.0]]))
    score = SCORES.build('test_largest_weight')
    assert score(context).tolist() == [3, 2]
    assert largest(context).tolist() == [3, 2]
    with pytest.raises(PruningError, match='already registered'):
        register_score('test_largest_weight')(largest)


def test_a_score_with_settings():
    @register_score('test_power')
    class Power(Score):
        def __init__(self, exponent=1):
            self.exponent = exponent

        def __call__(self, context):
            return context.filters.abs().pow(self.exponent).sum(1)

    context = ScoreContext(torch.tensor([[1.0, -3.0]]))
    score = SCORES.build(dict(type='test_power', exponent=2))
    assert score(context).item() == 10
    with pytest.raises(PruningError, match='it takes exponent'):
        SCORES.build(dict(type='test_power', power=2))
