# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Optimizer wrappers that step the thresholds."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from mmlapp.core import LAPP, PruningError, attach
from mmlapp.engine import AmpPruningOptimWrapper, PruningOptimWrapper
from mmlapp.engine.training.optim_wrapper import attend


def build(steps: int = 10, update: str = 'balance') -> tuple[nn.Module, LAPP]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(32, 2),
    )
    pruner = attach(model, torch.rand(1, 3, 6, 6), method=LAPP(update))
    pruner.begin({'flops': 0.5}, steps)
    return model, pruner


def loss_of(model: nn.Module, pruner: LAPP) -> Tensor:
    images = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return model(images).square().mean() + pruner.loss()


class Scaler:
    """A loss scaler whose factor changes, as that of AMP on a GPU."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def get_scale(self) -> float:
        return self.scale


def test_a_step_of_the_wrapper_is_one_of_the_pruner() -> None:
    model, pruner = build()
    wrapper = PruningOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    wrapper.initialize_count_status(model, 0, 10)
    wrapper.pruner = pruner
    wrapper.update_params(loss_of(model, pruner))
    assert pruner.progress.done == 1


def test_thresholds_are_no_parameters_of_the_optimizer() -> None:
    model, pruner = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    known = {id(p) for g in optimizer.param_groups for p in g['params']}
    assert id(pruner.method.threshold) not in known


def test_the_loss_scale_is_taken_out_of_the_thresholds_gradient() -> None:
    thresholds = []
    for last in (1.0, 1024.0):
        # Balanced ones follow no gradient.
        model, pruner = build(100, 'gradient')
        wrapper = PruningOptimWrapper(
            torch.optim.SGD(model.parameters(), lr=0.0)
        )
        wrapper.initialize_count_status(model, 0, 10)
        wrapper.pruner = pruner
        for step, scale in enumerate((1.0, 1.0, 1.0, last)):
            wrapper.loss_scaler = Scaler(scale)
            noise = torch.rand(4, 3, 6, 6) + step
            loss = model(noise).square().mean() + pruner.loss()
            wrapper.update_params(loss * scale)
        thresholds.append(pruner.method.threshold.detach().clone())
    torch.testing.assert_close(*thresholds, rtol=1e-4, atol=1e-5)


def test_the_scale_is_that_of_the_gradients_and_not_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AMP's optimizer step ends with a new factor."""
    model, pruner = build()
    wrapper = PruningOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    wrapper.pruner, wrapper.loss_scaler = pruner, Scaler(8.0)
    heard: list[float] = []
    monkeypatch.setattr(pruner, 'step', heard.append)
    monkeypatch.setattr(
        wrapper.optimizer,
        'step',
        lambda: setattr(wrapper.loss_scaler, 'scale', 16.0),
    )
    wrapper.step()
    wrapper.step()
    assert heard == [8.0, 16.0]


def test_without_a_pruner_it_steps_the_optimizer_alone() -> None:
    model, pruner = build()
    before = next(model.parameters()).detach().clone()
    wrapper = PruningOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    wrapper.update_params(loss_of(model, pruner))
    assert pruner.progress.done == 0
    assert not torch.equal(next(model.parameters()), before)


def test_a_step_without_hook_or_pruner_is_refused() -> None:
    model, pruner = build()
    wrapper = PruningOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(PruningError, match=r'nothing to step: .*PruningHook'):
        wrapper.optim_context(model)
    attended = PruningOptimWrapper(wrapper.optimizer)
    attend(SimpleNamespace(model=model, optim_wrapper=attended))
    wrapper.pruner = pruner  # as in a loop of one's own
    for each in (attended, wrapper):
        with each.optim_context(model):
            pass


@pytest.mark.parametrize(
    ('dtype', 'told'), [('float16', r'torch\.float16'), ('bf16', 'bf16')]
)
def test_other_types_on_the_cpu_are_refused(dtype: str, told: str) -> None:
    if torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    text = rf'dtype={told}: .* bfloat16\. Leave dtype out'
    with pytest.raises(PruningError, match=text):
        AmpPruningOptimWrapper(optimizer=optimizer, dtype=dtype)


def test_mixed_precision_goes_on_with_or_without_loss_scaling() -> None:
    """A checkpoint of the CPU, where nothing is scaled, goes on on a GPU."""
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)

    def wrapper(enabled: bool) -> AmpPruningOptimWrapper:
        found = AmpPruningOptimWrapper(optimizer=optimizer)
        found.loss_scaler = torch.amp.GradScaler(
            'cpu', init_scale=8, enabled=enabled
        )
        return found

    plain = PruningOptimWrapper(optimizer)
    for first in (wrapper(True), wrapper(False), plain):
        for second in (wrapper(True), wrapper(False), plain):
            second.load_state_dict(first.state_dict())
            assert second.optimizer.param_groups[0]['lr'] == 0.1
    taken = wrapper(True)
    taken.loss_scaler.scale(torch.ones(()))
    taken.loss_scaler.update(4.0)
    found = wrapper(True)
    found.load_state_dict(taken.state_dict())
    assert found.loss_scaler.state_dict()['scale'] == 4
