# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
from report_runs import HEAD, PHASE, start, state

from mmlapp.engine.report import views
from mmlapp.engine.report.run import read_run


def test_the_sum_of_all_losses_comes_first(pruned):
    run = read_run(pruned)
    run.training['a_loss'] = [(1.0, 1.0)]
    assert list(views.losses(run)) == ['loss', 'loss_cls', 'a_loss']


def test_a_cost_goes_from_the_dense_network_to_the_end(pruned):
    (flops,) = views.costs(read_run(pruned))
    assert flops.name == 'flops'
    assert flops.ratio == [(0, 1.0), (10, 0.75), (20, 0.625), (40, 0.625)]
    assert flops.target == [(0, 1.0), (10, 0.75), (20, 0.5), (40, 0.5)]


def test_before_a_late_phase_the_network_is_dense(work_dir):
    late = [state(15, (8, 4), begin=15), state(25, (4, 4), begin=15)]
    start(work_dir, '1', records=[HEAD, *late])
    run = read_run(work_dir)
    (flops,) = views.costs(run)
    assert flops.ratio == [(0, 1), (15, 1), (15, 1), (25, 0.5), (25, 0.5)]
    # It has not ended: it lasts to the last record.
    assert views.phase(run) == (15, 25)


def test_what_was_before_a_start_in_the_phase_is_not_known(work_dir):
    start(work_dir, '1', records=[{**HEAD, 'iter': 10}, *PHASE[1:]])
    (flops,) = views.costs(read_run(work_dir))
    assert flops.ratio == [(10, 0.75), (20, 0.625), (20, 0.625)]


def test_a_phase_that_begins_later_in_a_resumed_run(work_dir):
    head, late = {**HEAD, 'iter': 10}, state(15, (8, 4), begin=15)
    start(work_dir, '1', records=[head, late])
    (flops,) = views.costs(read_run(work_dir))
    assert flops.ratio == [(10, 1), (15, 1), (15, 1), (15, 1)]


def test_the_phase_ends_where_the_network_is_fixed(pruned):
    assert views.phase(read_run(pruned)) == (0, 20)


def test_widths_of_all_layers(pruned):
    stem, other, depth = views.layers(read_run(pruned))
    assert (stem.inputs, stem.outputs) == ((3, 3), (8, 5))
    assert (other.inputs, other.outputs) == ((8, 5), (4, 1))
    assert (depth.inputs, depth.outputs) == (None, (4, 1))
    assert stem.over == [(0, 1.0), (10, 0.75), (20, 0.625)]
    assert (stem.share, other.share) == (0.625, 0.25)


def test_channels_of_all_groups(pruned, work_dir):
    assert views.channels(read_run(pruned)) == [('stem', 8, 5), ('<b>&', 4, 1)]


def test_before_the_phase_everything_is_whole(work_dir):
    start(work_dir, '1', records=[HEAD])
    run = read_run(work_dir)
    assert views.channels(run) == [('stem', 8, 8), ('<b>&', 4, 4)]
    assert [la.outputs for la in views.layers(run)] == [(8, 8), (4, 4), (4, 4)]
    assert (views.costs(run), views.phase(run)) == ([], None)
    assert views.thresholds(run) == []


def test_thresholds_beside_scores(pruned):
    stem, other = views.thresholds(read_run(pruned))
    assert (stem.name, stem.channels, stem.iters) == (
        'stem',
        (8, 5),
        [0, 10, 20],
    )
    assert stem.threshold == [0, 0.5, 1]
    assert stem.scores == [PHASE[0]['scores'][0]] * 3
    assert all(map(math.isnan, other.threshold))


def test_what_else_a_method_shows(work_dir):
    def shown(place, values):
        return {**state(place, (8, 4)), 'shown': {'alive': values}}

    records = [HEAD, shown(0, [1, 0.5]), shown(5, [0.5, None])]
    start(work_dir, '1', records=records)
    run = read_run(work_dir)
    assert views.thresholds(run) == []
    (pairs,) = views.others_shown(run).values()
    assert pairs[0] == (1, 0.5)
    assert pairs[1][0] == 0.5
    assert math.isnan(pairs[1][1])


def test_what_was_left_alone(pruned):
    (entry,) = views.frozen(read_run(pruned))
    assert entry == ('head', 10, 'output of the <network>')


@pytest.mark.parametrize('view', [views.losses, views.others_shown])
def test_a_run_that_told_nothing(work_dir, view):
    start(work_dir, '1', records=[{**HEAD, 'frozen': []}])
    run = read_run(work_dir)
    assert view(run) == {}
    assert views.frozen(run) == []


def test_a_dense_run_knows_of_no_reasons(dense):
    run = read_run(dense)
    assert views.frozen(run) is None
    assert (views.layers(run), views.channels(run)) == ([], [])
