# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Layers that are pruned and stay as they are otherwise."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine.runner import Runner
from torch import nn, optim

from mmlapp.core import Pruner, PruningWarning, attach
from mmlapp.engine.training.untrained import warn_of_untrained


@pytest.fixture
def pruner() -> Pruner:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 3)
    )
    return attach(model, torch.rand(1, 3, 9, 9))


def layers(pruner: Pruner) -> list[nn.Module]:
    return [layer.module for group in pruner.groups for layer in group.layers]


def sgd(*groups: tuple[nn.Module, float]) -> optim.Optimizer:
    return optim.SGD(
        [dict(params=m.parameters(), lr=rate) for m, rate in groups]
    )


def test_what_the_optimizer_lacks_or_does_not_move(pruner: Pruner) -> None:
    first, second = layers(pruner)
    text = r"^{}: .* not change their weights .* ignore=\['{}'\]"
    with pytest.warns(PruningWarning, match=text.format(0, 0)):
        warn_of_untrained(pruner, sgd((second, 0.1)))
    with pytest.warns(PruningWarning, match=text.format(1, 1)):
        warn_of_untrained(pruner, sgd((first, 0.1), (second, 0.0)))
    with pytest.warns(PruningWarning, match='^0, 1: '):
        warn_of_untrained(pruner, sgd((nn.Linear(2, 2), 0.1)))


def test_what_is_trained_is_not_named(pruner: Pruner) -> None:
    first, second = layers(pruner)
    optimizer = sgd((first, 0.1), (second, 0.1))
    # A warmup that begins at zero.
    optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step, 1))
    assert optimizer.param_groups[0]['lr'] == 0
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warn_of_untrained(pruner, optimizer)
        warn_of_untrained(pruner, None)
        # Named by the core, when the phase begins.
        first.requires_grad_(False)
        warn_of_untrained(pruner, sgd((second, 0.1)))


@pytest.mark.parametrize('rate', [0, 0.5])
def test_a_run_with_a_rate_of_zero_for_the_backbone(
    make_runner: Callable[..., Runner],
    recwarn: pytest.WarningsRecorder,
    rate: float,
) -> None:
    def change(config: dict[str, Any]) -> None:
        config['optim_wrapper']['paramwise_cfg'] = dict(
            custom_keys={'backbone.layer1': dict(lr_mult=rate)}
        )

    make_runner(change).train()
    told = [str(w.message) for w in recwarn if 'optimizer of' in str(w)]
    assert len(told) == (rate == 0)
    assert not told or told[0].startswith('backbone.layer1.0.conv1: ')
