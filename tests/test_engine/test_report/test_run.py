# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from html_page import Page
from report_runs import HEAD, PHASE, start, training, validation

from mmlapp.engine.report.page import page_of
from mmlapp.engine.report.run import read_run


def test_a_run_is_read_as_it_was_logged(pruned):
    run = read_run(pruned)
    assert run.name == 'work <dir>'
    assert run.training['loss'] == [(i, 1 / i) for i in range(5, 41, 5)]
    assert set(run.training) == {'loss', 'loss_cls', 'lr'}
    assert run.validation == {
        'accuracy/top1': [(1, 40.0), (2, 60.0), (4, 55.0)]
    }
    assert run.by_epoch
    assert run.states == PHASE
    assert (run.phase, run.end, run.last, run.broken) == (
        'finished',
        40,
        40,
        0,
    )
    assert run.starts == [('20260101_000000', 0)]


def test_what_a_resumed_run_makes_undone_is_forgotten(resumed):
    run = read_run(resumed)
    # Iteration 15 was logged twice, the state of 15 is undone.
    assert [i for i, _ in run.training['loss']] == [5, 10, 15, 20]
    assert run.states == PHASE
    assert run.starts == [('20260101_000000', 0), ('20260102_000000', 10)]
    assert run.validation['accuracy/top1'] == [(1, 40.0), (2, 60.0)]
    assert run.end is None
    assert run.broken == 2


def test_a_validation_that_is_undone_is_forgotten(work_dir):
    rows = [*training(1, 20), validation(2, 60.0)]
    start(work_dir, '1', rows, [HEAD])
    start(work_dir, '2', training(11, 12, every=1), [{**HEAD, 'iter': 10}])
    run = read_run(work_dir)
    assert run.validation == {}
    assert [i for i, _ in run.training['loss']] == [5, 10, 11, 12]


def test_a_dense_run_goes_on_where_its_log_does(work_dir):
    start(work_dir, '1', training(1, 20))
    start(work_dir, '2', training(11, 30, every=1))
    run = read_run(work_dir)
    assert [i for i, _ in run.training['loss']] == [5, 10, *range(11, 31)]
    assert (run.phase, run.head, run.end) == (None, {}, None)


def test_another_run_in_the_same_folder_takes_its_place(work_dir):
    start(work_dir, '1', training(1, 40), [HEAD, *PHASE])
    start(work_dir, '2', training(1, 5), [HEAD])
    run = read_run(work_dir)
    assert [i for i, _ in run.training['loss']] == [5]
    assert (run.states, run.phase) == ([], 'dense')
    assert run.starts == [('2', 0)]


def test_a_dense_run_takes_the_place_of_a_pruned_one(work_dir):
    """MMEngine logs first at its interval, not at iteration 1."""
    start(work_dir, '1', training(1, 40), [HEAD, *PHASE])
    start(work_dir, '2', training(1, 40, every=10))
    run = read_run(work_dir)
    assert [i for i, _ in run.training['loss']] == [10, 20, 30, 40]
    assert (run.states, run.phase) == ([], None)
    assert run.starts == [('2', 0)]


def test_a_run_that_ended_and_is_resumed_has_not_ended(pruned):
    start(pruned, '20260102_000000', records=[{**HEAD, 'iter': 40}])
    run = read_run(pruned)
    assert run.end is None
    assert len(run.starts) == 2
    # What the narrow network does not tell is still known.
    assert run.states == PHASE


def test_what_a_narrow_start_does_not_know_stays_known(pruned):
    unknown = 'settings', 'frozen'
    narrow = {k: v for k, v in HEAD.items() if k not in unknown}
    start(pruned, '20260102_000000', records=[{**narrow, 'iter': 30}])
    run = read_run(pruned)
    assert run.head['frozen'] == HEAD['frozen']
    assert run.head['iter'] == 30


def test_validation_by_iterations(work_dir):
    rows = [*training(1, 20), validation(20, 60.0)]
    start(work_dir, '1', rows)
    assert not read_run(work_dir).by_epoch


def values(run):
    return run.validation['accuracy/top1']


def one_epoch(first, last):
    """Training by iterations with the default log_processor."""
    return training(first, last, epoch=1000)


def test_validations_of_a_loop_that_counts_no_epochs(work_dir):
    """All have step 0, and stand where the last record of training does."""
    rows = [
        *one_epoch(1, 12), validation(0, 60.0),
        *one_epoch(13, 24), validation(0, 90.0),
        # Before the next record of training.
        validation(0, 80.0),
        *one_epoch(25, 36), validation(0, 70.0),
    ]  # fmt: skip
    start(work_dir, '1', rows)
    run = read_run(work_dir)
    assert values(run) == [(10, 60.0), (20, 90.0), (20, 80.0), (35, 70.0)]
    assert not run.by_epoch
    assert '70 at last, highest 90' in page_of(run)


def test_such_a_loop_that_is_resumed(work_dir):
    # A checkpoint of the end of training has epoch 1.
    start(work_dir, '1', [*one_epoch(1, 20), validation(0, 60.0)])
    log = ['INFO - resumed epoch: 1, iter: 20']
    later = [{**row, 'epoch': 2} for row in one_epoch(21, 40)]
    rows = [validation(1, 50.0), *later, validation(1, 70.0)]
    start(work_dir, '2', rows, log=log)
    run = read_run(work_dir)
    assert values(run) == [(20, 60.0), (20, 50.0), (40, 70.0)]
    log = ['INFO - resumed epoch: 1, iter: 10']
    start(work_dir, '3', [validation(1, 30.0), *later], log=log)
    # Those of the second start are undone as well.
    assert len(values(read_run(work_dir))) == 1


def test_validations_that_count_iterations(work_dir):
    """As with ``log_metric_by_epoch=False``, here between two records."""
    rows = [
        *one_epoch(1, 10), validation(12, 60.0), validation(14, 40.0),
        *one_epoch(15, 16), validation(16, 50.0),
    ]  # fmt: skip
    start(work_dir, '1', rows)
    # It went on from iteration 12.
    rows = [validation(14, 45.0), *one_epoch(13, 16), validation(16, 55.0)]
    start(work_dir, '2', rows, log=['INFO - resumed epoch: 0, iter: 12'])
    run = read_run(work_dir)
    assert values(run) == [(12, 60.0), (14, 45.0), (16, 55.0)]
    assert not run.by_epoch


def test_epochs_of_which_training_notes_nothing(work_dir):
    """As with an epoch loop and ``log_processor=dict(by_epoch=False)``."""
    rows = [
        *training(1, 10), validation(1, 60.0),
        *training(11, 20), validation(2, 50.0),
    ]  # fmt: skip
    for row in rows:
        row.pop('epoch', None)
    start(work_dir, '1', rows)
    run = read_run(work_dir)
    assert (values(run), run.by_epoch) == ([(10, 60.0), (20, 50.0)], False)


def test_a_validation_before_the_first_epoch(work_dir):
    rows = [validation(0, 10.0), *training(1, 10), validation(1, 60.0)]
    start(work_dir, '1', rows)
    run = read_run(work_dir)
    assert (values(run), run.by_epoch) == ([(0, 10.0), (1, 60.0)], True)


def test_a_real_run_by_iterations(make_runner, tmp_path):
    make_runner(
        lambda config: config.update(
            train_cfg=dict(by_epoch=False, max_iters=6, val_interval=2),
            val_cfg=dict(),
            val_dataloader=config['train_dataloader'],
            val_evaluator=dict(type='Accuracy'),
        ),
        plain=True,
    ).train()
    run = read_run(tmp_path)
    assert [place for place, _ in values(run)] == [2, 4, 6]
    assert not run.by_epoch


def test_a_real_run_that_was_stopped_and_resumed(make_runner, tmp_path):
    make_runner(epochs=2, narrow=True).train()
    (first,) = (path for path in tmp_path.glob('2*') if path.is_dir())
    (tmp_path / 'epoch_2.pth').unlink()
    # Within a second both would have the same folder.
    first.rename(tmp_path / '20250101_000000')
    whole = read_run(tmp_path)
    runner = make_runner(
        lambda c: c.update(
            load_from=str(tmp_path / 'epoch_1.pth'), resume=True
        ),
        epochs=3,
        narrow=True,
    )
    runner.train()
    run = read_run(tmp_path)
    # The second process did what the first had done, and went on.
    assert run.states == whole.states
    assert run.head['frozen'] == whole.head['frozen']
    assert run.starts == [('20250101_000000', 0), (runner.timestamp, 4)]
    assert [i for i, _ in run.training['loss']] == list(range(1, 13))
    assert run.training['loss'][:8] == whole.training['loss']
    assert (whole.end, run.end, run.phase) == (8, 12, 'finished')
    page = Page(page_of(run))
    page.check_alone()
    assert page.text.count('class="fan"') == len(run.head['groups']) == 4


@pytest.mark.parametrize('by_epoch', [True, False])
def test_real_dense_runs_one_after_the_other(make_runner, tmp_path, by_epoch):
    """Resumed, then begun anew, and stopped before the second record."""

    def train(name, iters, interval, **changed):
        """Trains and calls the folder of the log by another name."""
        loop = dict(by_epoch=False, max_iters=iters)
        if by_epoch:
            loop = dict(by_epoch=True, max_epochs=iters // 4)
        logger = dict(type='LoggerHook', interval=interval)
        every = 1 if by_epoch else 4
        hook = dict(type='CheckpointHook', interval=every, by_epoch=by_epoch)
        runner = make_runner(
            lambda config: config.update(
                train_cfg=loop,
                log_level='INFO',
                default_hooks=dict(logger=logger, checkpoint=hook),
                **changed,
            ),
            plain=True,
        )
        runner.train()
        # Within a second all would have the same folder.
        (tmp_path / runner.timestamp).rename(tmp_path / name)

    train('1', 8, 2)
    train('2', 12, 4, resume=True)
    run = read_run(tmp_path)
    assert run.starts == [('1', 0), ('2', 8)]
    assert [i for i, _ in run.training['loss']] == [2, 4, 6, 8, 12]
    train('3', 4, 4)
    run = read_run(tmp_path)
    assert run.starts == [('3', 0)]
    assert [i for i, _ in run.training['loss']] == [4]
