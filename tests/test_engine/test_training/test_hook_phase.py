# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The pruning phase inside a run of MMEngine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from latency_tables import made_up
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmlapp.core import Phase, PruningError
from mmlapp.engine.latency.part import subject_of

MakeRunner = Callable[..., Runner]


def scalars(work_dir: Path) -> list[dict[str, Any]]:
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


class Recorder(Hook):
    """Notes the phase and the FLOPs of every iteration."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float]] = []

    def after_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        pruner = runner.model.pruner
        self.rows.append(
            (pruner.phase, pruner.ratios()['flops'], pruner.targets()['flops'])
        )


def test_a_run_ends_within_the_budget(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make_runner()
    recorder = Recorder()
    runner.register_hook(recorder)
    runner.train()
    phases = [row[0] for row in recorder.rows]
    # two epochs of four iterations; the last step of the phase ends it
    assert phases == [Phase.PRUNING] * 7 + [Phase.FINISHED] * 5
    assert {row[1] for row in recorder.rows[7:]} == {recorder.rows[-1][1]}
    assert 0.49 <= recorder.rows[-1][1] <= 0.5
    targets = [row[2] for row in recorder.rows]
    assert targets == sorted(targets, reverse=True)
    assert targets[-1] == pytest.approx(0.5)


def test_the_log_shows_flops_groups_and_thresholds(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make_runner()
    runner.train()
    rows = scalars(tmp_path)
    ratios = [row['flops_ratio'] for row in rows if 'flops_ratio' in row]
    assert len(ratios) == 12
    assert ratios[-1] == pytest.approx(runner.model.pruner.ratios()['flops'])
    assert not any('loss_pruning' in row for row in rows)
    groups = [row for row in rows if 'pruning/flops_target' in row]
    name = 'backbone.layer1.0.conv1'
    assert len(groups) >= 4
    assert groups[-1][f'pruning/keep/{name}'] == pytest.approx(
        runner.model.pruner.keep_ratios()[name]
    )
    assert f'pruning/threshold/{name}' in groups[-1]


def test_thresholds_that_learn_by_gradient_have_a_loss(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    def gradient(config: dict[str, Any]) -> None:
        config['model']['method'] = dict(type='lapp', update='gradient')

    runner = make_runner(gradient)
    runner.train()
    losses = [row.get('loss_pruning') for row in scalars(tmp_path)]
    assert max(filter(None, losses)) > 0
    assert runner.model.pruner.ratios()['flops'] <= 0.5


@pytest.mark.parametrize(
    'method',
    ['uniform', 'random', 'one_cycle', 'psap', dict(type='admm', updates=1)],
    ids=str,
)
def test_other_methods_prune_alike(
    make_runner: MakeRunner, method: str | dict[str, Any]
) -> None:
    def change(config: dict[str, Any]) -> None:
        config['model']['method'] = method
        config['custom_hooks'][0]['target'] = dict(flops=0.6, parameters=0.5)

    runner = make_runner(change)
    runner.train()
    ratios = runner.model.pruner.ratios()
    assert ratios['flops'] <= 0.6
    assert ratios['parameters'] <= 0.5
    hub = runner.message_hub.log_scalars
    for name, ratio in ratios.items():
        assert hub[f'train/{name}_ratio'].current() == pytest.approx(ratio)


def test_latency_is_a_target_beside_others(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    """From a table in proportion to FLOPs, so that the lower one binds."""

    def change(config: dict[str, Any]) -> None:
        subject = subject_of(Config(config))
        table = made_up(subject.model, subject.images, scope='backbone')
        table.save(tmp_path / 'table.json')
        latency = dict(type='latency', table=str(tmp_path / 'table.json'))
        config['model']['costs'] = ['flops', latency]
        config['custom_hooks'][0]['target'] = dict(flops=0.7, latency=0.6)

    runner = make_runner(change)
    runner.train()
    hub = runner.message_hub.log_scalars
    left = hub['train/latency_ratio'].current()
    assert 0.55 < left <= 0.6
    assert hub['train/flops_ratio'].current() == pytest.approx(left, abs=0.01)
    assert runner.model.pruner.plan().costs['latency']['target'] == 0.6


def test_gradient_accumulation_counts_optimizer_steps(
    make_runner: MakeRunner,
) -> None:
    def accumulate(config: dict[str, Any]) -> None:
        config['optim_wrapper']['accumulative_counts'] = 2

    runner = make_runner(accumulate)
    runner.train()
    assert runner.model.pruner.phase == Phase.FINISHED
    assert (
        runner.model.pruner.progress.done
        == runner.model.pruner.progress.steps
        == 4
    )


def test_the_averaged_model_has_the_masks_of_the_source(
    make_runner: MakeRunner,
) -> None:
    def average(config: dict[str, Any]) -> None:
        config['custom_hooks'].append(dict(type='EMAHook', momentum=0.1))

    runner = make_runner(average)
    runner.train()
    (hook,) = [h for h in runner.hooks if type(h).__name__ == 'EMAHook']
    averaged = hook.ema_model.module
    assert averaged.pruner is not runner.model.pruner
    torch.testing.assert_close(averaged.pruner.mask, runner.model.pruner.mask)
    removed = ~runner.model.pruner.mask
    assert removed.any()
    # Parameters are masked where a forward reads them: channels are zero.
    outputs: list[torch.Tensor] = []
    averaged.backbone.layer1[0].bn1.register_forward_hook(
        lambda module, inputs, output: outputs.append(output)
    )
    averaged.eval()
    averaged(torch.rand(1, 3, 8, 8), mode='tensor')
    kept = averaged.pruner.keep_ratios()['backbone.layer1.0.conv1']
    silent = (outputs[0] == 0).all(dim=3).all(dim=2)
    assert silent.float().mean() == pytest.approx(1 - kept)


def stable(config: dict[str, Any]) -> None:
    """Ends early: an epoch of one step, at a rate that changes nothing."""
    config['model']['method'] = 'uniform'
    config['optim_wrapper']['optimizer']['lr'] = 0.0
    config['custom_hooks'][0].update(
        prune_epochs=4, end=dict(type='stable', epoch=1)
    )


@pytest.mark.filterwarnings('ignore:.*pruned like all others')
def test_a_phase_ends_with_kept_channels_that_stay(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner(stable, narrow=True, epochs=5)
    runner.logger.info = (said := []).append
    runner.train()
    # 16 steps; the target is there after 80 % of them, in the 13th.
    text = next(text for text in said if 'the phase ended early' in text)
    assert 'at step 15 of 16' in text
    assert 'had a similarity of 1.0000 over the last two epochs' in text
    ended = [text for text in said if text.startswith('Pruning finished')]
    assert len(ended) == 1
    hub = runner.message_hub.log_scalars['train/flops_ratio']
    assert hub.current() <= 0.5
    assert not hasattr(runner.model, 'pruner')


@pytest.mark.filterwarnings('ignore:.*pruned like all others')
def test_a_phase_that_could_have_ended_early_says_so(
    make_runner: MakeRunner,
) -> None:
    def change(config: dict[str, Any]) -> None:
        stable(config)
        # Noted at steps 5, 10 and 15, and the schedule prunes in between.
        config['custom_hooks'][0]['end']['epoch'] = 5

    runner = make_runner(change, epochs=4)
    runner.logger.info = (said := []).append
    runner.train()
    (text,) = [text for text in said if 'the phase ended' in text]
    assert 'ended at step 16 of 16; the kept channels had a similarity' in text
    assert 'of 0.' in text


class Stop(Hook):
    """Ends the training after the first epoch."""

    def after_train_epoch(self, runner: Runner) -> None:
        runner.train_loop.stop_training = True


def test_the_network_of_the_phase_is_forgotten_at_its_end(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    def gradient(config: dict[str, Any]) -> None:
        config['model']['method'] = dict(type='lapp', update='gradient')
        config['custom_hooks'][0]['begin_iters'] = 2

    runner = make_runner(gradient, narrow=True)
    runner.message_hub.update_info('best_score', 99.0)
    runner.train()
    shown = ['loss_pruning' in row for row in scalars(tmp_path) if 'lr' in row]
    # From the first to the last but one step of the phase, which narrows.
    assert shown == [False] * 2 + [True] * 7 + [False] * 3
    assert 'best_score' not in runner.message_hub.runtime_info


def test_a_phase_without_an_end_and_images_of_another_size_are_named(
    make_runner: MakeRunner,
) -> None:
    def change(config: dict[str, Any]) -> None:
        config['model']['input_shape'] = (3, 32, 32)

    runner = make_runner(change)
    runner.register_hook(Stop())
    said: list[str] = []
    runner.logger.warning = said.append
    runner.train()
    said = [text for text in said if text.startswith('Pruning:')]
    assert len(said) == 2
    assert 'input_shape=(3, 32, 32), but images of the first ba' in said[0]
    assert 'not ended (step 4 of 8)' in said[1]


@pytest.mark.parametrize('unit', ['filters', 'channels'])
@pytest.mark.parametrize('kind', ['depthwise', 'pointwise', 'grouped'])
def test_a_run_with_bypasses_ends_within_the_budget(
    make_runner: MakeRunner, kind: str, unit: str
) -> None:
    def add(config: dict[str, Any]) -> None:
        config['model'].update(bypass=kind, unit=unit)
        config['custom_hooks'][0]['target'] = dict(flops=0.6)

    runner = make_runner(add)
    runner.train()
    assert 0.59 <= runner.model.pruner.ratios()['flops'] <= 0.6


class Load(Hook):
    """Takes weights of another run when all other hooks are ready."""

    priority = 'LOWEST'

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def before_train(self, runner: Runner) -> None:
        runner.model.load_state_dict(self.state)


@pytest.mark.parametrize('done', [1, 4])
def test_weights_that_a_hook_loads_bring_no_other_target(
    make_runner: MakeRunner, done: int
) -> None:
    other = make_runner().model
    other.pruner.begin({'flops': 0.8}, steps=4)
    for _ in range(done):
        other.pruner.step()
    runner = make_runner()
    runner.register_hook(Load(other.state_dict()))
    with pytest.raises(PruningError, match=r"'flops': 0.5}, in the .*0\.8"):
        runner.train()
