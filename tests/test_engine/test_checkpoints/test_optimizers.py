# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The state of an optimizer is taken by one of its class alone."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.optim import LinearLR
from mmengine.runner import Runner
from mmpretrain.engine.optimizers import LARS, Adan, Lamb
from torch import nn, optim

from mmlapp.core import PruningError
from mmlapp.engine.checkpoints.optimizers import (
    KEY,
    check_optimizer,
    check_parameters,
    note_optimizer,
    other_settings,
)

MakeRunner = Callable[..., Runner]


def make(kind: str) -> Any:
    return getattr(optim, kind)([nn.Parameter(torch.ones(2))], lr=0.1)


def stepped(
    optimizer: Any, model: nn.Module | None = None, noted: bool = True
) -> dict[str, Any]:
    """A checkpoint after one step."""
    parameters = [p for g in optimizer.param_groups for p in g['params']]
    sum(p.square().sum() for p in parameters).backward()
    optimizer.step()
    checkpoint: dict[str, Any] = {'optimizer': optimizer.state_dict()}
    owner = nn.Module() if model is None else model
    note_optimizer(optimizer if noted else None, owner, checkpoint)
    return checkpoint


def saved(kind: str, noted: bool = True) -> dict[str, Any]:
    return stepped(make(kind), noted=noted)


class Plain(optim.Optimizer):
    """Not of torch, whose own classes have more settings in their groups."""

    def __init__(self, params: Any, lr: float, decay: float = 0.0) -> None:
        super().__init__(params, dict(lr=lr, decay=decay))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group['params']:
                p -= group['lr'] * (p.grad + group['decay'] * p)


@pytest.mark.parametrize('kind', [Plain, Lamb, LARS, Adan])
def test_of_a_class_of_others_it_is_taken(kind: Any) -> None:
    optimizer, other = (
        kind([nn.Parameter(torch.ones(2))], lr=0.1) for _ in 'ab'
    )
    checkpoint = stepped(other)
    before = {**optimizer.defaults}
    check_optimizer(optimizer, checkpoint)
    assert optimizer.defaults == before
    # Which adds to the defaults of the optimizer, and not to its groups.
    optimizer.load_state_dict(checkpoint['optimizer'])
    check_optimizer(optimizer, checkpoint)
    checkpoint['optimizer']['param_groups'][0].pop('lr')
    with pytest.raises(PruningError, match=r'missing in the state .*, lr:'):
        check_optimizer(optimizer, checkpoint)


@pytest.mark.parametrize('kind', ['SGD', 'Adam', 'AdamW', 'RMSprop', 'Rprop'])
@pytest.mark.parametrize('noted', [True, False])
def test_of_the_same_class_it_is_taken(kind: str, noted: bool) -> None:
    optimizer, checkpoint = make(kind), saved(kind, noted)
    assert (KEY in checkpoint) == noted
    check_optimizer(optimizer, checkpoint)
    # As a release wrote it that knew fewer settings, which torch fills in.
    del checkpoint['optimizer']['param_groups'][0]['maximize']
    check_optimizer(optimizer, checkpoint)
    assert optimizer.state == {}


@pytest.mark.parametrize(
    ('own', 'other'), [('AdamW', 'Adam'), ('SGD', 'Adam'), ('Adam', 'SGD')]
)
def test_both_classes_are_named(own: str, other: str) -> None:
    text = f'optimizer={own}, in the checkpoint {other}: .*Resume with the'
    with pytest.raises(PruningError, match=text):
        check_optimizer(make(own), saved(other))


def test_where_nothing_was_noted_what_is_missing_is_told() -> None:
    text = 'optimizer=Adam has settings .* checkpoint, betas, eps: '
    with pytest.raises(PruningError, match=text):
        check_optimizer(make('Adam'), saved('SGD', noted=False))


@pytest.mark.parametrize(
    ('state', 'lacking'),
    [
        ({}, 'param_groups'),
        ([], 'param_groups'),
        ({'param_groups': []}, 'param_groups'),
        ({'param_groups': [{'params': []}]}, 'state'),
        ({'param_groups': [{'lr': 1}], 'state': {}}, 'params: '),
        ({'param_groups': [3], 'state': {}}, 'params: '),
        ({'param_groups': [{'params': [[0]]}], 'state': {}}, 'params: '),
        ({'param_groups': [{'params': [0]}], 'state': {}}, 'dampening, '),
        ({'param_groups': [{'params': [0]}], 'state': {0: 'x'}}, 'state: '),
    ],
)
def test_what_is_no_state(state: Any, lacking: str) -> None:
    with pytest.raises(PruningError, match=f'checkpoint, {lacking}'):
        check_optimizer(make('SGD'), {'optimizer': state})


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 3))


def all_at_once(model: nn.Module) -> Any:
    return optim.SGD(model.parameters(), 0.1, momentum=0.9)


def one_by_one(model: nn.Module) -> Any:
    groups = [{'params': [p]} for p in model.parameters()]
    return optim.SGD(groups, 0.1, momentum=0.9)


def without_the_last(model: nn.Module) -> Any:
    return optim.SGD([*model.parameters()][:-1], 0.1, momentum=0.9)


def backwards(model: nn.Module) -> Any:
    return optim.SGD([*model.parameters()][::-1], 0.1, momentum=0.9)


def in_order(*order: int) -> Callable[[nn.Module], Any]:
    def make(model: Any) -> Any:
        parameters = [p for i in order for p in model[i].parameters()]
        return optim.SGD(parameters, 0.1, momentum=0.9)

    return make


first_last, second_first = in_order(2, 1, 0), in_order(1, 0, 2)


@pytest.mark.parametrize(
    ('other', 'noted', 'text'),
    [
        (one_by_one, True, r'1 groups of parameters, in the checkpoint 6'),
        (one_by_one, False, r'1 groups of parameters, in the checkpoint 6'),
        (
            without_the_last,
            True,
            r'6 parameters in group 0, .* 5, such as 2\.bias in one of them',
        ),
        (without_the_last, False, r'6 parameters in group 0, .* 5: optim_'),
        (backwards, True, r'0\.weight in group 0, .* checkpoint 2\.bias is'),
        (
            second_first,
            False,
            r'a parameter of shape \(3, 2\), .* its momentum_buffer has',
        ),
        # Of the same shapes.
        (first_last, True, r'0\.weight in group 0, .* 2\.weight is there'),
    ],
)
def test_states_of_other_parameters(
    other: Callable[[nn.Module], Any], noted: bool, text: str
) -> None:
    """Torch itself refuses some of them, and mixes up the rest."""
    model = net()
    checkpoint = stepped(other(model), model, noted)
    optimizer = all_at_once(model)
    with pytest.raises(
        PruningError, match=f'^resume: optimizer=SGD has {text}.*load_from'
    ):
        check_parameters(optimizer, model, checkpoint)
    assert not optimizer.state


@pytest.mark.parametrize('noted', [True, False])
def test_states_of_other_widths(noted: bool) -> None:
    """Parameters of the same names, as of a network before narrowing."""
    model, wide = net(), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5))
    model = model[:2]
    checkpoint = stepped(all_at_once(wide), wide, noted)
    text = (
        r'a parameter of shape \(2, 3\), .* its momentum_buffer has \(5, 3\)'
    )
    with pytest.raises(PruningError, match=text):
        check_parameters(all_at_once(model), model, checkpoint)


@pytest.mark.parametrize('noted', [True, False])
@pytest.mark.parametrize('kind', ['SGD', 'Adam', 'Adafactor', 'LBFGS'])
def test_states_of_the_same_parameters(kind: str, noted: bool) -> None:
    """Some are of other shapes than their parameters."""
    model = net()
    optimizer = getattr(optim, kind)(model.parameters(), lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = sum(p.square().sum() for p in model.parameters())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)
    checkpoint: dict[str, Any] = {'optimizer': optimizer.state_dict()}
    note_optimizer(optimizer if noted else None, model, checkpoint)
    check_parameters(optimizer, model, checkpoint)


def test_notes_that_are_damaged_are_none() -> None:
    model = net()
    checkpoint = stepped(all_at_once(model), model)
    for value in (3, [3], None):
        checkpoint[KEY]['parameters'] = value
        check_parameters(all_at_once(model), model, checkpoint)


def test_settings_that_do_not_count_are_told() -> None:
    """Those that schedulers change are compared as they were given."""

    def build(lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> Any:
        optimizer = optim.Adam([nn.Parameter(torch.ones(2))], lr, betas)
        LinearLR(optimizer, start_factor=0.1)
        return optimizer

    found = build(0.2)
    found.param_groups[0]['lr'] = 0.123
    checkpoint = {'optimizer': found.state_dict()}
    assert other_settings(build(0.2), checkpoint) == []
    assert other_settings(build(0.1, (0.8, 0.99)), checkpoint) == [
        'betas=(0.9, 0.99), in the config (0.8, 0.99)',
        'lr=0.2, in the config 0.1',
    ]


@pytest.mark.parametrize('noted', [True, False])
def test_a_run_that_is_resumed_with_another_one(
    make_runner: MakeRunner, tmp_path: Path, noted: bool
) -> None:
    make_runner(epochs=2).train()
    path = tmp_path / 'epoch_1.pth'
    if not noted:
        checkpoint = torch.load(path, weights_only=False)
        del checkpoint[KEY]
        torch.save(checkpoint, path)

    def other(config: dict[str, Any]) -> None:
        config['optim_wrapper']['optimizer'] = dict(type='Adam', lr=0.001)
        config.update(load_from=str(path), resume=True)

    runner = make_runner(other, epochs=2)
    with pytest.raises(PruningError, match=r'^optimizer=Adam'):
        runner.train()
    assert runner.iter == 0


def test_a_run_that_is_resumed_with_other_groups(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    """The model is narrow by then: after its phase torch finds no fault."""
    make_runner(epochs=2, narrow=True).train()

    def other(config: dict[str, Any]) -> None:
        config['optim_wrapper']['paramwise_cfg'] = dict(bias_lr_mult=2)
        config.update(load_from=str(tmp_path / 'epoch_2.pth'), resume=True)

    runner = make_runner(other, epochs=3, narrow=True)
    with pytest.raises(PruningError, match=r'optimizer=SGD has .* groups of'):
        runner.train()
    assert runner.iter == 0


def test_a_resumed_run_tells_which_settings_do_not_count(
    make_runner: MakeRunner,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def schedule(config: dict[str, Any]) -> None:
        config['param_scheduler'] = [dict(type='StepLR', step_size=2)]

    def other(config: dict[str, Any]) -> None:
        config['param_scheduler'] = [dict(type='StepLR', step_size=3)]
        config['optim_wrapper']['optimizer']['lr'] = 0.01
        config.update(load_from=str(tmp_path / 'epoch_1.pth'), resume=True)

    make_runner(schedule, epochs=2).train()
    runner = make_runner(other, epochs=2)
    runner.logger.addHandler(caplog.handler)
    runner.train()
    text = r'lr=0\.05, in the config 0\.01; StepLR: step_size=2, .* 3\)'
    assert re.search(text, caplog.text)
