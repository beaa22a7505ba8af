# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The model becomes small inside a run of MMEngine, and the run goes on."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from head_dropout import drop_inputs_of_head
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from resumed_runs import assert_equal, averaged, resumed
from torch import nn

from mmlapp.core import ChannelPlan, PruningError, narrow
from mmlapp.engine.checkpoints.finite import check_finite
from mmlapp.engine.deployment.deploy import deploy, load_deployed
from mmlapp.engine.models.plans import KEY, narrow_model, plans_in
from mmlapp.engine.training import trial
from mmlapp.engine.training.parts import narrowed_plan

MakeRunner = Callable[..., Runner]
SGD = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-2, nesterov=True)
ADAM = dict(type='AdamW', lr=0.005, weight_decay=0.1)


class Double(Hook):
    """Trains in float64."""

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        runner.model.double()
        runner.model.backbone.register_forward_pre_hook(
            lambda module, args: (args[0].double(),)
        )


class ChannelsLast(Hook):
    """Another order in memory."""

    def before_run(self, runner: Runner) -> None:
        runner.model.to(memory_format=torch.channels_last)

    def after_run(self, runner: Runner) -> None:
        weight = runner.model.backbone.layer1[0].conv2._parameters['weight']
        assert weight.is_contiguous(memory_format=torch.channels_last)


class Dropout(Hook):
    """Noise in training, which only the right random numbers repeat."""

    def before_run(self, runner: Runner) -> None:
        drop_inputs_of_head(runner)


def add_averages(config: dict[str, Any], **arguments: Any) -> None:
    config['custom_hooks'].insert(
        0, dict(type='EMAHook', momentum=0.1, **arguments)
    )


def clip(config: dict[str, Any]) -> None:
    config['optim_wrapper']['clip_grad'] = dict(max_norm=0.5)


def recompute(config: dict[str, Any]) -> None:
    config['cfg'] = dict(activation_checkpointing=['backbone.layer1'])
    config['optim_wrapper']['optimizer'] = dict(ADAM)


def accumulate(config: dict[str, Any]) -> None:
    config['optim_wrapper']['accumulative_counts'] = 2
    config['custom_hooks'].append(dict(type=ChannelsLast))


@pytest.mark.filterwarnings('ignore:.*use_reentrant:UserWarning')
@pytest.mark.parametrize(
    ('setting', 'bypass', 'buffers'),
    [
        (clip, {}, False),
        (recompute, dict(bypass='depthwise'), True),
        (accumulate, dict(bypass='depthwise', unit='filters'), False),
        pytest.param(clip, dict(unit='stripes'), True, marks=pytest.mark.slow),
        pytest.param(
            accumulate,
            dict(unit='stripes', method='adaptive_l1', normalisation='none'),
            False,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_twenty_narrow_steps_equal_twenty_masked_ones(
    make_runner: MakeRunner,
    tmp_path: Path,
    setting: Callable[[dict[str, Any]], None],
    bypass: dict[str, str],
    buffers: bool,
) -> None:
    def change(config: dict[str, Any]) -> None:
        add_averages(config, update_buffers=buffers)
        config['model'].update(bypass)
        config['optim_wrapper']['optimizer'] = dict(SGD)
        setting(config)
        config['param_scheduler'] = dict(type='CosineAnnealingLR', T_max=7)
        config['custom_hooks'][1].update(
            prune_iters=4, prune_epochs=1, target=dict(flops=0.6)
        )

    def train(narrow: bool) -> Runner:
        runner = make_runner(
            change, work_dir=tmp_path / str(narrow), epochs=6, narrow=narrow
        )
        runner.register_hook(Double())
        runner.train()
        return runner

    masked, slim = train(False), train(True)
    plan = masked.model.pruner.plan()
    assert narrowed_plan(slim) == plan
    assert narrowed_plan(masked) is None
    assert not hasattr(slim.model, 'lapp')
    assert_equal(slim.model, narrow_model(masked.model, plan), 1e-10)
    assert_equal(averaged(slim), narrow_model(averaged(masked), plan), 1e-10)
    rates = [r.optim_wrapper.get_lr()['lr'] for r in (masked, slim)]
    assert rates[0] == rates[1]


def test_the_log_says_what_was_gained(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make_runner(
        lambda c: c.update(log_level='INFO'), epochs=3, narrow=True
    )
    runner.train()
    (path,) = tmp_path.glob('*/*.log')
    text = path.read_text()
    plan = narrowed_plan(runner)
    share = plan.costs['flops']['pruned'] / plan.costs['flops']['dense']
    assert 0.49 <= share <= 0.5
    assert f'flops {plan.costs["flops"]["dense"]:.4g} → ' in text
    assert f'({share:.2%}), parameters ' in text
    count = sum(p.numel() for p in runner.model.parameters())
    assert f' → {count:,} (' in text
    assert 'Pruning: a training step takes 0.' in text


def test_a_run_resumed_anywhere_equals_an_unbroken_one(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        add_averages(config)
        config['custom_hooks'][1].update(
            begin_iters=4, prune_epochs=1.5, target=dict(flops=0.6)
        )
        config['model']['bypass'] = dict(type='depthwise')
        config['val_dataloader'] = config['train_dataloader']
        config.update(val_cfg={}, val_evaluator=dict(type='Accuracy'))

    whole = make_runner(change, work_dir=tmp_path / 'a', epochs=5, narrow=True)
    whole.register_hook(Dropout())
    whole.train()

    for epoch in (1, 2, 3, 4):
        path = tmp_path / 'a' / f'epoch_{epoch}.pth'
        again = make_runner(
            resumed(change, path),
            work_dir=tmp_path / str(epoch),
            epochs=5,
            narrow=True,
        )
        again.register_hook(Dropout())
        again.train()
        assert narrowed_plan(again) == narrowed_plan(whole)
        assert_equal(again.model, whole.model, 0)
        assert_equal(averaged(again), averaged(whole), 0)


def test_training_goes_on_from_a_narrow_checkpoint(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    first = make_runner(work_dir=tmp_path / 'a', narrow=True)
    first.train()

    def load(config: dict[str, Any]) -> None:
        config['load_from'] = str(tmp_path / 'a' / 'epoch_3.pth')
        config['optim_wrapper']['optimizer']['lr'] = 0.0

    second = make_runner(load, work_dir=tmp_path / 'b', epochs=1, narrow=True)
    second.train()
    assert narrowed_plan(second) == narrowed_plan(first)
    expected = dict(first.model.named_parameters())
    for name, parameter in second.model.named_parameters():
        assert torch.equal(parameter, expected[name])
    listed = second.optim_wrapper.optimizer.param_groups[0]['params']
    assert {id(p) for p in listed} == {
        id(p) for p in second.model.parameters()
    }


def test_a_masked_checkpoint_is_narrowed_when_the_run_goes_on(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    first = make_runner(work_dir=tmp_path / 'a', narrow=False)
    first.train()

    def load(config: dict[str, Any]) -> None:
        config['resume'] = True
        config['load_from'] = str(tmp_path / 'a' / 'epoch_3.pth')

    second = make_runner(load, work_dir=tmp_path / 'b', epochs=4, narrow=True)
    second.train()
    assert narrowed_plan(second) == first.model.pruner.plan()


def test_a_trained_model_is_pruned_in_a_short_phase(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    first = make_runner(work_dir=tmp_path / 'a', plain=True)
    first.train()
    seen = []

    class Watch(Hook):
        priority = 'VERY_LOW'

        def before_train(self, runner: Runner) -> None:
            weight = runner.model.backbone.conv1._parameters['weight']
            seen.append(weight.detach().clone())

    def prune(config: dict[str, Any]) -> None:
        config['load_from'] = str(tmp_path / 'a' / 'epoch_3.pth')
        config['custom_hooks'][0].update(prune_epochs=1)

    second = make_runner(prune, work_dir=tmp_path / 'b', narrow=True)
    second.register_hook(Watch())
    second.train()
    assert torch.equal(seen[0], first.model.backbone.conv1.weight)
    assert 0.49 <= narrowed_plan(second).ratios()['flops'] <= 0.5


def test_an_unknown_version_is_refused(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    first = make_runner(work_dir=tmp_path / 'a', narrow=True)
    first.train()
    path = tmp_path / 'a' / 'epoch_3.pth'
    data = torch.load(path, weights_only=False)
    (plan,) = plans_in(data['state_dict'])
    text = json.dumps([{**plan.to_dict(), 'version': 7}])
    data['state_dict'][KEY] = torch.tensor(list(text.encode()))
    torch.save(data, path)

    def load(config: dict[str, Any]) -> None:
        config['load_from'] = str(path)

    second = make_runner(load, work_dir=tmp_path / 'b', narrow=True)
    with pytest.raises(
        PruningError, match='version 7: this release reads version'
    ):
        second.train()


def test_what_an_optimizer_cannot_narrow_stays_masked(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    class Rows(torch.optim.SGD):
        """Keeps a number for every filter."""

        def step(self, closure: Any = None) -> None:
            super().step(closure)
            for group in self.param_groups:
                for p in group['params']:
                    rows = p.detach().reshape(len(p), -1)
                    self.state[p]['row'] = rows.sum(1, keepdim=True)

    def rows(config: dict[str, Any]) -> None:
        config['optim_wrapper']['optimizer'] = dict(type=Rows, lr=0.01)

    runner = make_runner(rows, narrow=True)
    runner.train()
    assert 0.49 <= runner.model.pruner.ratios()['flops'] <= 0.5
    (path,) = tmp_path.glob('*/*.log')
    assert "masks stay: state 'row' of" in path.read_text()


def test_a_narrow_model_that_differs_is_not_taken(
    make_runner: MakeRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: nn.Module, plan: Any) -> nn.Module:
        slim = narrow(model, plan)
        slim.backbone.conv1.weight.data.mul_(1.01)
        return slim

    monkeypatch.setattr(trial, 'narrow', wrong)
    runner = make_runner(narrow=True)
    runner.train()
    assert 0.49 <= runner.model.pruner.ratios()['flops'] <= 0.5
    (path,) = tmp_path.glob('*/*.log')
    assert 'masks stay: on random 3x8x8 the narrowed' in path.read_text()


def fused_norms(config: dict[str, Any]) -> None:
    config['cfg'] = dict(efficient_conv_bn_eval=['backbone'])


@pytest.fixture
def plain(make_runner: MakeRunner, tmp_path: Path) -> Runner:
    """A run that was narrowed, without settings of MMEngine."""
    runner = make_runner(work_dir=tmp_path / 'plain', narrow=True)
    runner.train()
    return runner


def assert_same_run(found: Runner, expected: Runner) -> None:
    assert narrowed_plan(found) == narrowed_plan(expected)
    assert_equal(found.model, expected.model, 1e-4)


def test_fused_norms_change_nothing(
    make_runner: MakeRunner, plain: Runner
) -> None:
    runner = make_runner(fused_norms, narrow=True)
    runner.train()
    assert_same_run(runner, plain)


class Counting(Hook):
    """Notes how many graphs were compiled in each step, wide and narrow."""

    def __init__(self) -> None:
        self.count = 0
        self.new: dict[bool, list[int]] = {False: [], True: []}

    def backend(self, graph: Any, inputs: Any) -> Any:
        self.count += 1
        return graph.forward

    def before_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        self.before = self.count
        self.narrow = narrowed_plan(runner) is not None

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        self.new[self.narrow].append(self.count - self.before)


@pytest.mark.filterwarnings('ignore')  # of the compiler
def test_a_compiled_run_is_the_same_and_compiles_everything_once_more(
    make_runner: MakeRunner, plain: Runner
) -> None:
    """When it narrows, and nothing in between, whatever schedules do."""
    counting = Counting()
    torch.compiler.reset()

    def change(config: dict[str, Any]) -> None:
        config['cfg'] = dict(compile=dict(backend='counting'))

    torch._dynamo.register_backend(
        lambda *args: counting.backend(*args), name='counting'
    )
    runner = make_runner(change, narrow=True)
    runner.register_hook(counting, 'VERY_LOW')
    runner.train()
    assert_same_run(runner, plain)
    for new in counting.new.values():
        assert new[0] > 0
        assert not any(new[2:])
    wide, narrow = (sum(counting.new[kind]) for kind in (False, True))
    assert narrow <= wide


def test_mixed_precision_on_the_cpu(make_runner: MakeRunner) -> None:
    def amp(config: dict[str, Any]) -> None:
        config['optim_wrapper'].update(
            type='mmlapp.AmpPruningOptimWrapper', clip_grad=dict(max_norm=1.0)
        )
        config['model'].update(bypass='grouped', unit='filters')
        config['custom_hooks'][0].update(target=dict(flops=0.6))

    runner = make_runner(amp, narrow=True)
    runner.train()
    assert 0.59 <= narrowed_plan(runner).ratios()['flops'] <= 0.6
    check_finite(runner.model)


def test_fused_norms_beside_a_bypass_are_refused(
    make_runner: MakeRunner,
) -> None:
    def change(config: dict[str, Any]) -> None:
        fused_norms(config)
        config['model']['bypass'] = dict(type='depthwise')

    with pytest.raises(PruningError, match='without its bypass'):
        make_runner(change).train()


def test_a_narrow_checkpoint_is_tested_and_deployed(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        add_averages(config)
        config['model']['bypass'] = dict(type='depthwise')
        config['test_dataloader'] = config['train_dataloader']
        config.update(test_cfg={}, test_evaluator=dict(type='Accuracy'))
        written.update(copy.deepcopy(config))

    written: dict[str, Any] = {}
    first = make_runner(change, work_dir=tmp_path / 'a', narrow=True)
    first.train()
    checkpoint = tmp_path / 'a' / 'epoch_3.pth'

    def test(config: dict[str, Any]) -> None:
        change(config)
        config['load_from'] = str(checkpoint)

    second = make_runner(test, work_dir=tmp_path / 'b', narrow=True)
    assert second.test()['accuracy/top1'] > 0
    assert_equal(averaged(second), averaged(first), 0)

    cfg = Config(written)
    result = deploy(cfg, checkpoint, tmp_path / 'out', name='small')
    assert ChannelPlan.load(result.plan) == narrowed_plan(first)
    slim = load_deployed(result.config, result.checkpoint)
    assert_equal(slim, averaged(first), 0)
    assert all(check.passed for check in result.checks)
