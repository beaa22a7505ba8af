# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A whole run that costs what dense training does."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import BaseLoop, Runner
from teachers import build, config_of, save

from mmlapp.core import PruningError, PruningWarning
from mmlapp.engine import Distiller, equal_cost

ITERS = 4  # of an epoch, see conftest.py


class Recorder(Hook):
    """Notes what every iteration of a run costs, and its rate."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.costs: list[float] = []
        self.rates: list[float] = []

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        plan = next((h.plan for h in runner.hooks if hasattr(h, 'plan')), None)
        cost = 1.0 if plan is None else plan.ratios()['flops']
        self.costs.append(cost)
        self.rates.append(runner.optim_wrapper.get_lr()['lr'][0])


def settings(epochs: int = 6, **hook: Any) -> dict[str, Any]:
    """A config that is read, but not built."""
    hook = dict(target=dict(flops=0.5), prune_epochs=2, **hook)
    return dict(
        model=dict(type='mmlapp.PrunableModel'),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        param_scheduler=dict(type='MultiStepLR', milestones=[3, 5]),
        custom_hooks=[dict(type='mmlapp.PruningHook', **hook)],
    )


def ask(config: dict[str, Any], **hook: Any) -> None:
    """Asks for what dense training costs, and for a schedule."""
    config['custom_hooks'][0].update({'train_cost': 'dense', **hook})
    config['param_scheduler'] = [
        dict(type='LinearLR', start_factor=0.5, end=3, by_epoch=False),
        dict(type='MultiStepLR', milestones=[3, 5]),
    ]


def ask_by_iterations(config: dict[str, Any]) -> None:
    """The same, by iterations, with a phase that begins later."""
    ask(config, begin_iters=3, prune_iters=6)
    config['train_cfg'] = dict(by_epoch=False, max_iters=25)
    config['train_dataloader']['sampler']['type'] = 'InfiniteSampler'
    config['param_scheduler'] = [
        dict(type='MultiStepLR', milestones=[10, 20], by_epoch=False)
    ]


@pytest.fixture
def train(make_runner: Callable[..., Runner]) -> Callable[..., Any]:
    """Trains as a user does who calls ``Runner.from_cfg``."""

    def run(change: Callable[[dict[str, Any]], None], **kwargs: Any) -> Any:
        recorder = Recorder()

        def from_cfg(**config: Any) -> Runner:
            change(config)
            return Runner.from_cfg(equal_cost(Config(config)))

        def without_checkpoints(config: dict[str, Any]) -> None:
            config['default_hooks']['checkpoint'].update(
                interval=4, save_last=False
            )

        kwargs.setdefault('narrow', True)
        runner = make_runner(without_checkpoints, kind=from_cfg, **kwargs)
        runner.register_hook(recorder)
        runner.train()
        return runner, recorder

    return run


def test_a_run_costs_at_most_the_dense_one(
    train: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    def change(config: dict[str, Any]) -> None:
        ask(config)
        config['log_level'] = 'INFO'

    runner, recorder = train(change, epochs=6)
    # 2 + 4 / 2 = 4 of 6 epochs: longer by a half.
    assert runner.max_epochs == 9
    assert len(recorder.costs) == 9 * ITERS
    assert recorder.costs.count(1.0) == 3 * ITERS
    assert 5 * ITERS < sum(recorder.costs) <= 6 * ITERS
    assert (
        'training lasts 9 epochs instead of 6, and the whole run costs at '
        'most 100.00 % of dense training'
    ) in (Path(runner.log_dir) / f'{runner.timestamp}.log').read_text()
    # Those of the dense run, each in proportion: 4.5 and 7.5.
    rates = recorder.rates
    assert rates[5 * ITERS - 1] == pytest.approx(0.05)
    assert rates[5 * ITERS] == pytest.approx(0.005)
    assert rates[8 * ITERS - 1] == pytest.approx(0.005)
    assert rates[-1] == pytest.approx(0.0005)


def test_a_resumed_run_has_the_same_length(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    whole, recorder = train(ask, epochs=6)

    def resume(config: dict[str, Any]) -> None:
        ask(config)
        config.update(resume=True, load_from=str(tmp_path / 'epoch_4.pth'))

    runner, rest = train(resume, epochs=6)
    assert runner.max_epochs == whole.max_epochs
    assert rest.rates == recorder.rates[4 * ITERS :]
    assert rest.costs == recorder.costs[4 * ITERS :]


def test_a_run_by_iterations(train: Callable[..., Any]) -> None:
    runner, recorder = train(ask_by_iterations)
    # 9 + 16 / 2 = 17 of 25: 36.76 iterations, the phase ends at 12.96.
    assert runner.max_iters == len(recorder.costs) == 36
    assert recorder.costs.count(1.0) == 12
    # Both rounded down: at most an iteration each is not spent.
    assert 23 < sum(recorder.costs) <= 25
    # 10 and 20 become 14.4 and 28.8.
    changes = [
        at
        for at in range(1, 36)
        if recorder.rates[at] != recorder.rates[at - 1]
    ]
    assert changes == [14, 29]


def test_a_phase_that_begins_at_an_iteration(
    train: Callable[..., Any],
) -> None:
    def change(config: dict[str, Any]) -> None:
        ask(config, prune_epochs=1, begin_iters=3, epoch_iters=ITERS)

    runner, recorder = train(change, epochs=4)
    # 1.75 + 2.25 / 2 = 2.875 of 4: 5.57 epochs, the phase ends at 8.75
    # iterations, rounded down where it begins, 3.75, and where it ends.
    assert runner.max_epochs == 5
    assert recorder.costs.count(1.0) == 8
    assert 3 * ITERS - 1 < sum(recorder.costs) <= 4 * ITERS


def test_an_epoch_of_another_length_is_refused(
    make_runner: Callable[..., Runner],
) -> None:
    def from_cfg(**config: Any) -> Runner:
        ask(config, begin_iters=3, epoch_iters=5)
        return Runner.from_cfg(equal_cost(Config(config)))

    runner = make_runner(kind=from_cfg, narrow=True, epochs=6)
    with pytest.raises(
        PruningError, match=r'epoch_iters=5, .* an epoch has 4'
    ):
        runner.train()
    assert runner.iter == 0


def test_a_run_that_cannot_be_narrowed_says_what_it_costs(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmlapp.engine.training import hook_phase

    monkeypatch.setattr(hook_phase, 'find_obstacle', lambda *_: 'a reason')
    runner, _ = train(lambda config: ask(config, prune_epochs=1), epochs=2)
    # 1 + 1 / 2 = 1.5 of 2: 2.67 epochs, and with 3 they would cost more.
    assert runner.max_epochs == 2
    text = (Path(runner.log_dir) / f'{runner.timestamp}.log').read_text()
    assert (
        "masks stay: a reason; the run, lengthened by train_cost='dense', "
        'costs 100 % of dense training'
    ) in text


def test_a_config_that_does_not_ask_stays() -> None:
    config = settings()
    assert equal_cost(config) == config
    assert equal_cost(dict(train_cfg=None)) == dict(train_cfg=None)
    assert equal_cost(dict(train_cfg=dict(max_iters=1))) == dict(
        train_cfg=dict(max_iters=1)
    )


def test_the_given_config_stays_and_a_second_time_changes_nothing() -> None:
    config = Config(settings(train_cost='dense'))
    before = copy.deepcopy(config.to_dict())
    once = equal_cost(config)
    assert config.to_dict() == before
    assert once.custom_hooks[0].dense_length == dict(epochs=6)
    assert equal_cost(once).to_dict() == once.to_dict()


def test_a_dumped_config_is_read_again(tmp_path: Path) -> None:
    once = equal_cost(Config(settings(train_cost='dense')))
    once.dump(tmp_path / 'dumped.py')
    read = Config.fromfile(tmp_path / 'dumped.py')
    assert equal_cost(read).to_dict() == once.to_dict()


@pytest.mark.parametrize(
    ('asked', 'epochs'), [('dense', 150), (1, 150), (0.8, 120), (1.2, 180)]
)
def test_a_fraction_of_dense_training(asked: Any, epochs: int) -> None:
    # A phase of 33 1/3 of 100: 33 1/3 + 66 2/3 / 2 = 66 2/3.
    config = settings(100, train_cost=asked)
    config['custom_hooks'][0]['prune_epochs'] = 100 / 3
    found = equal_cost(config)
    assert found['train_cfg']['max_epochs'] == epochs
    hook = found['custom_hooks'][0]
    assert hook['prune_epochs'] == pytest.approx(epochs / 3)


def test_less_than_the_run_costs_makes_it_shorter() -> None:
    with pytest.warns(PruningWarning, match=r'shorter, 3 instead of 6 epochs'):
        found = equal_cost(settings(train_cost=0.34))
    assert found['train_cfg']['max_epochs'] == 3


def test_a_hook_of_a_subclass_and_its_place_do_not_matter() -> None:
    from mmlapp.engine import PruningHook

    HOOKS.register_module('Sub', True, type('Sub', (PruningHook,), {}))
    config = settings(train_cost='dense')
    (hook,) = config.pop('custom_hooks')
    config['default_hooks'] = dict(pruning={**hook, 'type': 'Sub'})
    assert equal_cost(config)['train_cfg']['max_epochs'] == 9


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (dict(train_cost='half'), "train_cost='half': expected 'dense', or"),
        (dict(train_cost=0), 'train_cost=0: expected a number above 0'),
        (dict(train_cost=True), 'train_cost=True: expected a number'),
        (dict(train_cost=0.1), 'train_cost=0.1 is less than one of 6 epochs'),
        (dict(train_cost='dense', narrow=False), 'narrow=False: .*nothing is'),
        (
            dict(train_cost='dense', begin_iters=5),
            'begin_iters=5, is.*epoch_iters',
        ),
        (
            dict(train_cost='dense', prune_iters=5),
            'prune_iters=5, .*epoch_iters',
        ),
    ],
)
def test_what_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(PruningError, match=text):
        equal_cost(settings(**change))


def test_a_target_without_flops_is_refused() -> None:
    config = settings(train_cost='dense')
    config['custom_hooks'][0]['target'] = dict(parameters=0.5)
    with pytest.raises(PruningError, match=r"'parameters': 0.5}.*target of f"):
        equal_cost(config)


def test_a_loop_without_a_length_is_refused() -> None:
    config = settings(train_cost='dense')
    config['train_cfg'] = dict(by_epoch=True)
    with pytest.raises(
        PruningError, match=r'no max_epochs and no max_iters, .* Set one'
    ):
        equal_cost(config)


@pytest.mark.parametrize('length', ['6', 6.5, 0, True])
def test_a_length_of_another_form_is_refused(length: Any) -> None:
    text = rf'train_cfg max_epochs={length!r}: expected a whole number from 1'
    with pytest.raises(PruningError, match=text):
        equal_cost(settings(length, train_cost='dense'))


def test_a_phase_in_epochs_of_a_run_by_iterations_is_refused() -> None:
    config = settings(train_cost='dense')
    config['train_cfg'] = dict(by_epoch=False, max_iters=9)
    with pytest.raises(PruningError, match=r'prune_epochs=2, .*epoch_iters='):
        equal_cost(config)


def test_a_runner_of_another_config_is_refused(
    make_runner: Callable[..., Runner],
) -> None:
    runner = make_runner(ask, narrow=True)
    with pytest.raises(PruningError, match=r'equal_cost\(cfg\)'):
        runner.train()
    assert runner.iter == 0


def test_a_length_that_was_changed_afterwards_is_refused(
    make_runner: Callable[..., Runner],
) -> None:
    def change(config: dict[str, Any]) -> None:
        ask(config, dense_length=dict(epochs=2))

    runner = make_runner(change, narrow=True)
    with pytest.raises(PruningError, match=r'the run costs 1.25 of dense'):
        runner.train()
    assert runner.iter == 0


class Forwards(Hook):
    """Counts how often the teacher of a run is asked."""

    def __init__(self) -> None:
        self.count = 0

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        if runner.iter == 0:
            hook = next(h for h in runner.hooks if isinstance(h, Distiller))
            hook.running.teacher.backbone.register_forward_hook(self.note)

    def note(self, *_: Any) -> None:
        self.count += 1


def test_a_run_with_its_teacher_costs_at_most_the_dense_one(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    dense = save(tmp_path / 'dense.pth', build(config_of(prunable=False)))
    HOOKS.register_module('Forwards', True, Forwards)

    def change(config: dict[str, Any]) -> None:
        ask(config, train_cost=4 / 3)
        teacher = dict(type='mmlapp.Distiller', teacher=dict(checkpoint=dense))
        config['custom_hooks'] += [teacher, dict(type='Forwards')]

    runner, recorder = train(change, epochs=6)
    # (2 + 4 / 2 + 6 / 3) k = 4 / 3 of 6 epochs.
    assert runner.max_epochs == 8
    (asked,) = [h.count for h in runner.hooks if isinstance(h, Forwards)]
    assert asked == 8 * ITERS
    spent = sum(recorder.costs) + asked / 3
    assert 7.5 * ITERS < spent <= 8 * ITERS


def test_a_teacher_makes_a_run_shorter() -> None:
    config = settings(200, train_cost='dense', begin_iters=40, epoch_iters=4)
    config['custom_hooks'].append(Distiller(dict(checkpoint='dense.pth')))
    with pytest.warns(PruningWarning, match='an object of Distiller'):
        found = equal_cost(config)
    # 200 k with (12 + 188 / 2 + 200 / 3) k = 200, rounded down.
    assert found['train_cfg']['max_epochs'] == 231
    config['custom_hooks'][1] = dict(type='mmlapp.Distiller', teacher='dense')
    # The run's own model teaches from epoch 10 on: 190 / 3.
    assert equal_cost(config)['train_cfg']['max_epochs'] == 236


def test_what_is_not_known_is_named() -> None:
    class Mine(Hook):
        def __init__(self, start: int, ratio: float = 0.5) -> None:
            pass

    HOOKS.register_module('Mine', True, Mine)
    config = settings(train_cost='dense')
    config['custom_hooks'] += [dict(type='Mine', start=4), Mine(4)]
    config['model']['head'] = [dict(initial_epoch=4, channels=8)]
    with pytest.warns(PruningWarning) as caught:
        equal_cost(config)
    (text,) = [str(warning.message) for warning in caught]
    assert text == (
        "train_cost='dense': training lasts 9 epochs instead of 6; these "
        'settings may hold epochs or iterations and stay as they are: '
        'custom_hooks[1] (Mine): start=4; custom_hooks[2], an object of Mine; '
        'model.head[0].initial_epoch=4'
    )


def test_a_loop_of_ones_own() -> None:
    class Mine(BaseLoop):
        def __init__(
            self, runner: Any, dataloader: Any, max_epochs: int, cool: int = 1
        ) -> None:
            pass

        def run(self) -> None:
            pass

    LOOPS.register_module('MyLoop', True, Mine)
    config = settings(train_cost='dense')
    loop = dict(type='MyLoop', max_epochs=6, val_begin=3, cool=2)
    config['train_cfg'] = loop
    with pytest.warns(
        PruningWarning, match=r'are: train_cfg \(Mine\): cool=2$'
    ):
        found = equal_cost(config)
    assert found['train_cfg'] == {**loop, 'max_epochs': 9, 'val_begin': 4}


def test_nothing_is_said_of_what_is_known() -> None:
    config = settings(train_cost='dense')
    config['default_hooks'] = dict(
        logger=dict(type='LoggerHook', interval=50),
        checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=3),
        stop=dict(type='EarlyStoppingHook', monitor='loss', patience=4),
        timer=None,
    )
    config['param_scheduler'] = dict(
        first=[dict(type='CosineAnnealingLR', T_max=6)],
        second=dict(type='LinearMomentum', begin=2, end=4),
    )
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = equal_cost(config)
    assert found['default_hooks'] == config['default_hooks']
    assert found['param_scheduler'] == dict(
        first=[dict(type='CosineAnnealingLR', T_max=9)],
        second=dict(type='LinearMomentum', begin=3, end=6),
    )


def test_hooks_of_the_default_scope_are_known() -> None:
    config = settings(train_cost='dense')
    config['default_scope'] = 'mmpretrain'
    config['custom_hooks'].append(
        dict(
            type='WarmupParamHook',
            param_name='temp',
            module_name='head',
            warmup_epochs=2,
        )
    )
    found = equal_cost(config)
    assert found['custom_hooks'][1]['warmup_epochs'] == 3
