# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The pruning phase inside a run of MMEngine."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner, Runner

from mmlapp.core import ChannelPlan, Phase, PruningError, PruningWarning
from mmlapp.engine import PruningHook
from mmlapp.engine.models.plans import plans_in
from mmlapp.engine.training.parts import narrowed_plan

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


@pytest.mark.parametrize('method', ['uniform', 'random'])
def test_other_methods_prune_alike(
    make_runner: MakeRunner, method: str
) -> None:
    def change(config: dict[str, Any]) -> None:
        config['model']['method'] = dict(type=method)
        config['custom_hooks'][0]['target'] = dict(flops=0.6, parameters=0.5)

    runner = make_runner(change)
    runner.train()
    ratios = runner.model.pruner.ratios()
    assert ratios['flops'] <= 0.6
    assert ratios['parameters'] <= 0.5
    hub = runner.message_hub.log_scalars
    for name, ratio in ratios.items():
        assert hub[f'train/{name}_ratio'].current() == pytest.approx(ratio)


def test_checkpoints_carry_the_plan_once_the_phase_is_over(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    """In the weights, which every reader keeps."""
    runner = make_runner(narrow=True)
    runner.train()

    def load(epoch: int) -> tuple[ChannelPlan, ...]:
        path = tmp_path / f'epoch_{epoch}.pth'
        return plans_in(torch.load(path, weights_only=False)['state_dict'])

    assert load(1) == ()
    assert load(3) == (narrowed_plan(runner),)


def test_a_resumed_run_equals_an_unbroken_one(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    whole = make_runner(work_dir=tmp_path / 'whole')
    whole.train()
    broken = make_runner(work_dir=tmp_path / 'broken')

    def resume(config: dict[str, Any]) -> None:
        config['resume'] = True
        config['load_from'] = str(tmp_path / 'whole' / 'epoch_1.pth')

    broken = make_runner(resume, work_dir=tmp_path / 'broken')
    broken.train()
    expected = whole.model.state_dict()
    for name, value in broken.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


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


class Poison(Hook):
    """Spoils the weights of one layer in the second epoch."""

    def before_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        if runner.iter == 5:
            layer = runner.model.backbone.layer2[0].conv1
            layer._parameters['weight'].data[3] = float('nan')


def test_a_diverged_run_stops_and_names_the_layer(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make_runner()
    runner.register_hook(Poison())
    with pytest.raises(PruningError, match=r'importance scores of backbone'):
        runner.train()
    good = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert all(v.isfinite().all() for v in good['state_dict'].values())
    assert not (tmp_path / 'epoch_2.pth').exists()


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (dict(target=dict(flops=1.2)), r'target flops=1\.2.*\(0, 1\]'),
        (dict(target=dict(flops=0)), 'target flops=0: '),
        (dict(target=0.5), r'target=0\.5.*dict\(flops=0\.5\)'),
        (dict(target=dict(flops=True)), 'target flops=True: '),
        (dict(prune_epochs=0), 'prune_epochs=0: expected a number above 0'),
        (dict(prune_iters=-3), 'prune_iters=-3'),
        (dict(interval=0), 'interval=0'),
        (dict(interval='50'), "interval='50': expected a whole number"),
        (dict(begin_iters=-1), 'begin_iters=-1'),
        (dict(narrow='False'), "narrow='False': expected True or False"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(PruningError, match=text):
        PruningHook(**arguments)


def change_hook(**arguments: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config['custom_hooks'][0].update(arguments)


def go_on(path: Path, resume: bool, **arguments: Any) -> Any:
    """Goes on from a checkpoint with other settings of the hook."""

    def change(config: dict[str, Any]) -> None:
        config.update(load_from=str(path), resume=resume)
        config['custom_hooks'][0].update(arguments)

    return change


@pytest.fixture
def trained(make_runner: MakeRunner, tmp_path: Path) -> Path:
    """Folder of a run: a checkpoint in its phase, at its end and later."""
    make_runner(work_dir=tmp_path / 'first', narrow=True).train()
    return tmp_path / 'first'


def test_settings_of_a_checkpoint_are_held_against_those_of_the_run(
    make_runner: MakeRunner, trained: Path, tmp_path: Path
) -> None:
    for epoch, resume, text in (
        (1, True, r"target={'flops': 0\.3}, in the .* 0\.5}: .* load_from"),
        (2, True, r"target={'flops': 0\.3}, .* is pruned, and there is no"),
        (2, False, r"target={'flops': 0\.3}, .* is pruned, and there is no"),
    ):
        path = trained / f'epoch_{epoch}.pth'
        change = go_on(path, resume, target=dict(flops=0.3))
        runner = make_runner(change, work_dir=tmp_path / 'again', epochs=4)
        with pytest.raises(PruningError, match=text):
            runner.train()


def test_masks_of_another_scope_are_refused_before_they_are_loaded(
    make_runner: MakeRunner, trained: Path, tmp_path: Path
) -> None:
    """By name, not by what cannot load them."""

    def change(config: dict[str, Any]) -> None:
        go_on(trained / 'epoch_1.pth', True)(config)
        config['model'].update(scope='backbone.layer1', bypass='depthwise')
        config['custom_hooks'].append(dict(type='EMAHook'))

    runner = make_runner(change, work_dir=tmp_path / 'again')
    with pytest.raises(PruningError, match=r'scope=.*bypass=.* belong to'):
        runner.train()


def test_weights_from_within_a_phase_start_a_fresh_one(
    make_runner: MakeRunner, trained: Path, tmp_path: Path
) -> None:
    """As weights that know nothing of a phase do."""
    whole = torch.load(trained / 'epoch_1.pth', weights_only=False)
    bare = {
        name: value
        for name, value in whole['state_dict'].items()
        if not name.startswith('pruner.')
    }
    torch.save({'state_dict': bare}, tmp_path / 'bare.pth')
    models = []
    for path in (trained / 'epoch_1.pth', tmp_path / 'bare.pth'):

        def change(config: dict[str, Any], path: Path = path) -> None:
            go_on(path, False, target=dict(flops=0.3))(config)
            config['custom_hooks'].append(dict(type='EMAHook'))

        runner = make_runner(change, work_dir=tmp_path / path.stem)
        runner.train()
        models.append(runner.model)
    assert models[0].pruner.ratios()['flops'] <= 0.3
    expected = models[1].state_dict()
    for name, value in models[0].state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


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


def test_two_hooks_are_refused(make_runner: MakeRunner) -> None:
    def twice(config: dict[str, Any]) -> None:
        config['custom_hooks'].append(dict(type='mmlapp.PruningHook'))

    with pytest.raises(PruningError, match='2 hooks of type PruningHook'):
        make_runner(twice).train()


@pytest.mark.parametrize(
    'kind', ['OptimWrapper', 'mmlapp.PruningOptimWrapper']
)
def test_a_run_that_lost_its_hook_is_named(
    make_runner: MakeRunner, kind: str
) -> None:
    def lose(config: dict[str, Any]) -> None:
        config['custom_hooks'] = []
        config['optim_wrapper']['type'] = kind

    runner = make_runner(lose, epochs=1)
    if kind == 'OptimWrapper':
        with pytest.warns(PruningWarning, match='nothing prunes it'):
            runner.train()
    else:
        with pytest.raises(PruningError, match='has nothing to step'):
            runner.train()


def test_a_phase_longer_than_training_is_refused(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner(change_hook(prune_epochs=4))
    with pytest.raises(PruningError, match=r'ends at iteration 16.*at 12'):
        runner.train()


def test_an_unreachable_target_states_the_minimum(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner(change_hook(target=dict(flops=0.01)))
    with pytest.raises(PruningError, match=r'reachable minimum of 0\.\d+'):
        runner.train()


def test_a_model_without_a_pruner_is_refused(
    make_runner: MakeRunner,
) -> None:
    def plain(config: dict[str, Any]) -> None:
        model = config['model']
        model['type'] = model.pop('architecture')
        del model['input_shape']

    with pytest.raises(PruningError, match='ImageClassifier has no pruner'):
        make_runner(plain).train()


def test_a_plain_optimizer_wrapper_is_refused(
    make_runner: MakeRunner,
) -> None:
    def plain(config: dict[str, Any]) -> None:
        config['optim_wrapper']['type'] = 'OptimWrapper'

    with pytest.raises(PruningError, match='does not step the pruner'):
        make_runner(plain).train()


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


def kinds(runner: Runner) -> list[str]:
    return [type(hook).__name__ for hook in runner.hooks]


def test_a_run_gets_the_hooks_that_go_with_pruning(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner()
    runner.call_hook('before_run')
    runner.call_hook('before_run')
    names = kinds(runner)
    place = names.index('PruningHook')
    assert names[place - 1 : place + 1] == ['RankCheckHook', 'PruningHook']
    assert runner.hooks[place - 1].interval == 2
    assert names[-2:] == ['RandomStateHook', 'SafeCheckpointHook']
    assert len(names) == len(set(names))


def test_hooks_of_the_config_are_kept(make_runner: MakeRunner) -> None:
    def change(config: dict[str, Any]) -> None:
        config['default_hooks']['checkpoint']['type'] = (
            'mmlapp.SafeCheckpointHook'
        )
        config['custom_hooks'] += [
            dict(type='mmlapp.RandomStateHook', priority='LOW'),
            dict(type='mmlapp.RankCheckHook', interval=7),
        ]

    runner = make_runner(change)
    before = list(runner.hooks)
    runner.call_hook('before_run')
    assert runner.hooks == before


def test_checkpoint_hooks_that_act_early_still_come_after_random_numbers(
    make_runner: MakeRunner,
) -> None:
    def change(config: dict[str, Any]) -> None:
        config['default_hooks']['checkpoint']['priority'] = 'NORMAL'

    runner = make_runner(change)
    runner.train()
    names = kinds(runner)
    place = names.index('SafeCheckpointHook')
    assert names[place - 1] == 'RandomStateHook'


def test_a_run_from_dense_weights_misses_nothing(
    make_runner: MakeRunner,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of a usual pretraining; what they do lack is still said."""
    dense = make_runner(plain=True).model.state_dict()
    del dense['head.fc.bias']
    torch.save({'state_dict': dense}, tmp_path / 'dense.pth')

    def change(config: dict[str, Any]) -> None:
        config['load_from'] = str(tmp_path / 'dense.pth')

    runner = make_runner(change)
    runner.call_hook('before_run')
    runner.load_or_resume()
    missing = re.findall('missing keys .*: (.*)', capsys.readouterr().out)
    assert missing == ['head.fc.bias']


def flexible(config: dict[str, Any]) -> None:
    config['strategy'] = dict(type='mmengine.SingleDeviceStrategy')
    config['val_dataloader'] = config['train_dataloader']
    config.update(val_cfg={}, val_evaluator=dict(type='Accuracy'))


def from_file(path: Path, **settings: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        flexible(config)
        config.update(load_from=str(path), **settings)

    return change


@pytest.mark.slow
def test_a_flexible_runner_takes_narrow_checkpoints(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    """To go on from, to begin with and to validate, as ``Runner`` does."""
    kind = dict(kind=FlexibleRunner, narrow=True)
    whole = make_runner(flexible, work_dir=tmp_path / 'a', epochs=4, **kind)
    whole.train()
    path = tmp_path / 'a' / 'epoch_3.pth'
    resumed = make_runner(from_file(path, resume=True), epochs=4, **kind)
    resumed.train()
    expected = whole.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name])
    begun = make_runner(from_file(path), epochs=1, **kind)
    begun.train()
    assert narrowed_plan(begun) == narrowed_plan(whole)
    last = make_runner(from_file(tmp_path / 'a' / 'epoch_4.pth'), **kind)
    score = whole.message_hub.get_scalar('val/accuracy/top1').current()
    assert last.val() == {'accuracy/top1': score}


@pytest.mark.parametrize('narrow', [False, True])
def test_a_flexible_runner_prunes_and_resumes(
    make_runner: MakeRunner, tmp_path: Path, narrow: bool
) -> None:
    """It loads before ``before_run`` and does not ask the wrapper."""

    def change(config: dict[str, Any]) -> None:
        config['strategy'] = dict(type='mmengine.SingleDeviceStrategy')

    def resume(config: dict[str, Any]) -> None:
        change(config)
        config['resume'] = True
        config['load_from'] = str(tmp_path / 'a' / 'epoch_1.pth')

    arguments = dict(kind=FlexibleRunner, narrow=narrow)
    whole = make_runner(change, work_dir=tmp_path / 'a', **arguments)
    whole.train()
    again = make_runner(resume, work_dir=tmp_path / 'b', **arguments)
    again.train()
    ratios = [
        r.message_hub.get_scalar('train/flops_ratio').current()
        for r in (whole, again)
    ]
    assert 0.49 <= ratios[0] <= 0.5
    assert ratios[0] == ratios[1]
    expected = whole.model.state_dict()
    assert list(again.model.state_dict()) == list(expected)
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, expected[name])
