# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whole runs on a GPU: mixed precision, NCCL, compilation, checkpoints."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from resumed_runs import assert_equal, averaged, resumed
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    allreduce_hook,
)

from mmlapp.core import ChannelPlan
from mmlapp.core.compare import relative_error
from mmlapp.engine.checkpoints.finite import check_finite
from mmlapp.engine.deployment.deploy import deploy, load_deployed
from mmlapp.engine.launch import build_runner
from mmlapp.engine.models.plans import narrow_model
from mmlapp.engine.training.parts import narrowed_plan, unwrap

MakeRunner = Callable[..., Runner]
OVERFLOW = 3  # the iteration


class Overflow(Hook):
    """Scales one loss until no gradient is finite; notes what that moves."""

    priority = 'VERY_LOW'

    def state(self, runner: Runner) -> dict[str, Tensor]:
        pruner = runner.model.pruner
        parts = {
            'gate': pruner.gate,
            'scores': pruner.scores,
            'threshold': pruner.method.threshold,
            'weight': runner.model.backbone.conv1._parameters['weight'],
        }
        return {name: t.detach().clone() for name, t in parts.items()}

    def before_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        if runner.iter == OVERFLOW:
            self.before = self.state(runner)
            self.done = runner.model.pruner.progress.done
            self.scale = runner.optim_wrapper.loss_scaler.get_scale()
            runner.optim_wrapper.loss_scaler._scale.fill_(2.0**120)

    def after_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        if runner.iter == OVERFLOW:
            scaler = runner.optim_wrapper.loss_scaler
            self.halved = scaler.get_scale()
            scaler._scale.fill_(self.scale)
            self.after = self.state(runner)
            self.counted = runner.model.pruner.progress.done - self.done


class Reduced(Hook):
    """Counts the numbers that processes exchange once the model is narrow."""

    count = 0

    def before_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        if runner.iter == runner.max_iters - 1:
            runner.model.register_comm_hook(None, self.reduce)

    def reduce(
        self, state: None, bucket: distributed.GradBucket
    ) -> torch.futures.Future[Tensor]:
        self.count += bucket.buffer().numel()
        return allreduce_hook(None, bucket)


class Scales(Hook):
    """Notes every loss scale."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def after_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        self.seen.append(runner.optim_wrapper.loss_scaler.get_scale())


def mixed(dtype: str, **arguments: Any) -> Callable[[dict[str, Any]], None]:
    """Mixed precision with a loss scale that grows every third step."""

    def change(config: dict[str, Any]) -> None:
        scale = dict(init_scale=16.0, growth_interval=3)
        config['optim_wrapper'].update(
            type='mmlapp.AmpPruningOptimWrapper',
            dtype=dtype,
            loss_scale=scale,
            **arguments,
        )
        config['test_dataloader'] = config['train_dataloader']
        config.update(test_cfg={}, test_evaluator=dict(type='Accuracy'))

    return change


def images(model: nn.Module) -> Tensor:
    torch.manual_seed(7)
    return torch.rand(4, 3, 8, 8).to(next(model.parameters()).device)


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    return model.eval()(images(model), mode='tensor')


def half(card: str, name: str) -> str:
    return 'bfloat16' if card == 'cpu' else name


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
@pytest.mark.parametrize(
    'arguments', [{}, dict(clip_grad=dict(max_norm=1.0))], ids=str
)
def test_mixed_precision_with_a_growing_loss_scale(
    make_runner: MakeRunner, card: str, dtype: str, arguments: dict[str, Any]
) -> None:
    scales = Scales()
    runner = make_runner(mixed(half(card, dtype), **arguments), narrow=True)
    runner.register_hook(scales)
    runner.train()
    assert 0.49 <= narrowed_plan(runner).ratios()['flops'] <= 0.5
    check_finite(runner.model)
    assert len(scales.seen) == 12
    if card == 'cuda':
        assert next(runner.model.parameters()).is_cuda
        # It grows in the phase and once the model is narrow.
        assert max(scales.seen[:8]) > 16
        assert max(scales.seen[8:]) > max(scales.seen[:8])


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_masked_narrow_and_deployed_compute_the_same(
    make_runner: MakeRunner, tmp_path: Path, card: str, dtype: str
) -> None:
    written: dict[str, Any] = {}

    def change(config: dict[str, Any]) -> None:
        mixed(half(card, dtype))(config)
        written.update(copy.deepcopy(config))

    runner = make_runner(change)
    runner.train()
    masked = runner.model
    plan = masked.pruner.plan()
    slim = narrow_model(copy.deepcopy(masked), plan)
    for enabled, tolerance in ((False, 5e-3), (True, 5e-2)):
        with torch.autocast(card, getattr(torch, dtype), enabled=enabled):
            expected, found = outputs(masked), outputs(slim)
        assert relative_error(expected, found) < tolerance
    path = tmp_path / 'epoch_3.pth'
    result = deploy(Config(written), path, tmp_path / 'out', name='small')
    assert ChannelPlan.load(result.plan) == plan
    assert all(check.passed for check in result.checks)
    deployed = load_deployed(result.config, result.checkpoint)
    expected, found = outputs(masked.cpu()), outputs(deployed)
    assert relative_error(expected, found) < 1e-4


@pytest.mark.parametrize('arguments', [{}, dict(clip_grad=dict(max_norm=1))])
def test_an_overflow_moves_nothing(
    make_runner: MakeRunner, card: str, arguments: dict[str, Any]
) -> None:
    if card == 'cpu':
        pytest.skip('losses are scaled on a GPU alone')
    overflow = Overflow()
    runner = make_runner(mixed('float16', **arguments), narrow=True)
    runner.register_hook(overflow)
    runner.train()
    assert overflow.halved == 2.0**119
    for name, value in overflow.before.items():
        assert torch.equal(overflow.after[name], value), name
    assert overflow.counted == 1
    assert 0.49 <= narrowed_plan(runner).ratios()['flops'] <= 0.5
    check_finite(runner.model)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains in float64, where two devices agree up to round-off."""
    build = Runner.build_model

    def build_double(runner: Runner, model: Any) -> nn.Module:
        built = build(runner, model).double()
        built.backbone.register_forward_pre_hook(
            lambda module, args: (args[0].double(),)
        )
        return built

    monkeypatch.setattr(Runner, 'build_model', build_double)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch, card: str) -> Iterator[None]:
    """What torchrun sets for one process; NCCL, without a GPU gloo."""
    environment = dict(
        RANK='0',
        LOCAL_RANK='0',
        WORLD_SIZE='1',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT='0',
        OMP_NUM_THREADS='1',
        MKL_NUM_THREADS='1',
    )
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def launched(config: dict[str, Any]) -> Runner:
    """As ``torchrun tools/train.py --launcher pytorch`` makes it."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
    config = dict(config, launcher='pytorch')
    config['env_cfg'] = dict(dist_cfg=dict(backend='nccl'))
    return build_runner(Config(config))


@pytest.mark.parametrize(
    'wrapper',
    ['MMDistributedDataParallel', 'mmlapp.PruningDistributedDataParallel'],
)
def test_one_process_over_nccl_equals_a_run_without(
    make_runner: MakeRunner,
    tmp_path: Path,
    processes: None,
    double: None,
    card: str,
    wrapper: str,
) -> None:
    configs: list[dict[str, Any]] = []

    def change(config: dict[str, Any]) -> None:
        config['custom_hooks'].insert(0, dict(type='EMAHook', momentum=0.1))
        config['custom_hooks'][1].update(target=dict(flops=0.6))
        configs.append(copy.deepcopy(config))

    alone = make_runner(change, work_dir=tmp_path / 'a', narrow=True)
    alone.train()
    found = []
    for name, epoch in (('b', None), ('c', 1)):
        config = dict(
            copy.deepcopy(configs[0]),
            experiment_name=f'{tmp_path.name}-{name}',
            work_dir=str(tmp_path / name),
            model_wrapper_cfg=dict(type=wrapper),
        )
        if epoch is not None:  # in the middle of the phase
            config['resume'] = True
            config['load_from'] = str(tmp_path / 'b' / f'epoch_{epoch}.pth')
        runner = launched(config)
        if card == 'cuda':
            assert distributed.get_backend() == 'nccl'
        reduced = Reduced()
        runner.register_hook(reduced)
        runner.train()
        assert type(runner.model).__name__ == wrapper.split('.')[-1]
        parameters = runner.model.module.parameters()
        assert reduced.count == sum(p.numel() for p in parameters)
        found.append(runner)
    for runner in found:
        assert narrowed_plan(runner).slices == narrowed_plan(alone).slices
        assert_equal(unwrap(runner.model), alone.model, 1e-9)
        assert_equal(averaged(runner), averaged(alone), 1e-9)


def test_synchronised_norms_are_narrowed(
    make_runner: MakeRunner,
    tmp_path: Path,
    processes: None,
    double: None,
    card: str,
) -> None:
    if card == 'cpu':
        pytest.skip('SyncBatchNorm needs a GPU')
    configs: list[dict[str, Any]] = []
    plain = make_runner(
        lambda c: configs.append(copy.deepcopy(c)),
        work_dir=tmp_path / 'a',
        narrow=True,
    )
    plain.train()
    config = dict(
        configs[0],
        experiment_name=f'{tmp_path.name}-b',
        work_dir=str(tmp_path / 'b'),
        sync_bn='torch',
    )
    runner = launched(config)
    runner.train()
    model = unwrap(runner.model)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert narrowed_plan(runner).slices == narrowed_plan(plain).slices
    assert_equal(model, plain.model, 1e-9)


def test_a_run_resumes_on_the_cpu(
    make_runner: MakeRunner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    double: None,
    card: str,
) -> None:
    """In the middle of the phase, and once the model is narrow."""

    def change(config: dict[str, Any]) -> None:
        config['custom_hooks'].insert(0, dict(type='EMAHook', momentum=0.1))

    whole = make_runner(change, work_dir=tmp_path / 'a', narrow=True)
    whole.train()
    monkeypatch.setattr('mmengine.runner.runner.get_device', lambda: 'cpu')
    for epoch in (1, 2):
        path = tmp_path / 'a' / f'epoch_{epoch}.pth'
        again = make_runner(
            resumed(change, path), work_dir=tmp_path / str(epoch), narrow=True
        )
        again.train()
        assert not next(again.model.parameters()).is_cuda
        assert narrowed_plan(again).slices == narrowed_plan(whole).slices
        assert_equal(again.model, whole.model.cpu(), 1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # of the compiler
def test_a_compiled_run_ends_as_one_that_is_not(
    make_runner: MakeRunner, tmp_path: Path, double: None, card: str
) -> None:
    """With inductor, the default of ``compile=True``."""
    torch.compiler.reset()
    runs = []
    for name, settings in (('a', {}), ('b', dict(compile=True))):

        def change(
            config: dict[str, Any], settings: dict[str, Any] = settings
        ) -> None:
            config['cfg'] = settings

        runner = make_runner(change, work_dir=tmp_path / name, narrow=True)
        runner.train()
        runs.append(runner)
    plain, fast = runs
    assert narrowed_plan(fast).slices == narrowed_plan(plain).slices
    assert_equal(fast.model, plain.model, 1e-8)
