# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of runs with a phase, and what begins or goes on from them."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner, Runner
from resumed_runs import resumed

from mmlapp.core import ChannelPlan, PruningError
from mmlapp.engine.models.plans import plans_in
from mmlapp.engine.training.parts import narrowed_plan

MakeRunner = Callable[..., Runner]


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


def test_a_resumed_phase_ends_early_at_the_same_step(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    """With an average of the model, whose entries MMEngine exchanges.

    Channels shrink meanwhile.
    """

    def change(config: dict[str, Any]) -> None:
        config['model'].update(method='uniform', shrink=2)
        config['custom_hooks'][0].update(
            prune_epochs=5,
            end=dict(type='stable', epoch=1, similarity=0.8),
        )
        config['custom_hooks'].append(dict(type='EMAHook', momentum=0.1))

    resume = resumed(change, tmp_path / 'whole' / 'epoch_3.pth')
    whole = make_runner(change, work_dir=tmp_path / 'whole', epochs=5)
    whole.train()
    broken = make_runner(resume, work_dir=tmp_path / 'broken', epochs=5)
    broken.train()
    assert broken.model.pruner.progress == whole.model.pruner.progress
    assert whole.model.pruner.progress.done < 20
    expected = whole.model.state_dict()
    for name, value in broken.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


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


class Beginning(Hook):
    """Keeps the weights that a training begins with."""

    def before_train(self, runner: Runner) -> None:
        self.state = copy.deepcopy(runner.model.state_dict())


@pytest.mark.parametrize('bypass', ['depthwise', None])
def test_branches_of_another_bypass_are_left_out(
    make_runner: MakeRunner, tmp_path: Path, bypass: str | None
) -> None:
    """Of weights and averages; all else is taken."""

    def first(config: dict[str, Any]) -> None:
        config['model'].update(bypass='pointwise')
        config['custom_hooks'].append(dict(type='EMAHook', momentum=0.1))

    def second(config: dict[str, Any]) -> None:
        first(config)
        config['model'].update(bypass=bypass)
        config['load_from'] = str(tmp_path / 'a' / 'epoch_1.pth')

    make_runner(first, work_dir=tmp_path / 'a').train()
    saved = torch.load(tmp_path / 'a' / 'epoch_1.pth', weights_only=False)
    runner, begin = make_runner(second, work_dir=tmp_path / 'b'), Beginning()
    runner.register_hook(begin)
    runner.train()
    for name, value in begin.state.items():
        if not name.startswith('pruner.') and '.bypass.' not in name:
            found = saved['state_dict'][name]
            torch.testing.assert_close(value, found, rtol=0, atol=0)
    assert any('.bypass.' in name for name in begin.state) == bool(bypass)


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

    resume = resumed(change, tmp_path / 'a' / 'epoch_1.pth')
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


def test_weights_that_were_saved_inside_a_wrapper(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    """The optimizer has to follow, however the weights are named."""
    first = make_runner(narrow=True)
    first.train()
    weights = first.model.state_dict()
    path = tmp_path / 'wrapped.pth'
    named = {f'module.{name}': value for name, value in weights.items()}
    torch.save({'state_dict': named, 'meta': {}}, path)

    def go_on(config: dict[str, Any]) -> None:
        config.update(load_from=str(path))

    again = make_runner(go_on, epochs=1, narrow=True)
    again.train()
    changed = [
        name
        for name, value in again.model.named_parameters()
        if not torch.equal(value, weights[name])
    ]
    assert 'backbone.layer1.0.conv1.weight' in changed


def test_published_weights_are_not_resumed(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    path = tmp_path / 'published.pth'
    state = make_runner().model.state_dict()
    torch.save({'state_dict': state, 'meta': {}}, path)

    def resume(config: dict[str, Any]) -> None:
        config.update(load_from=str(path), resume=True)

    with pytest.raises(PruningError, match=r'was published or deployed'):
        make_runner(resume).train()
