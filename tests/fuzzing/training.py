# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Training, with masks and after narrowing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from mmlapp.core import narrow

from .agreement import close
from .cases import Case, RefusedError

# Rounding that a few steps of training have spread.
TRAINED = 1e-5
# Far above rounding: a gradient that should be zero is noise, which they
# would divide by its own size.
EPS = 1e-4
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    'sgd': lambda p: torch.optim.SGD(p, 0.02, 0.9, weight_decay=0.01),
    'adam': lambda p: torch.optim.Adam(p, 0.01, eps=EPS, amsgrad=True),
    'adamw': lambda p: torch.optim.AdamW(p, 0.01, eps=EPS, weight_decay=0.1),
    'rmsprop': lambda p: torch.optim.RMSprop(p, 0.005, eps=EPS, momentum=0.5),
}


def trains(case: Case) -> None:
    """Training goes on after narrowing as it would have with masks."""
    name = case.rng.choice(list(OPTIMIZERS))
    plan = case.mask('random')
    wide = copy.deepcopy(case.masked)
    # Numbers that dropout draws depend on the width.
    wide.train(not case.network.draws)
    twin = copy.deepcopy(wide)
    optimizers = [OPTIMIZERS[name](m.parameters()) for m in (wide, twin)]
    for step in range(2):
        for model, optimizer in zip((wide, twin), optimizers, strict=True):
            train_step(model, optimizer, case.network.example(step))
    narrow(twin, plan, optimizers[1])
    for step in range(2, 4):
        for model, optimizer in zip((wide, twin), optimizers, strict=True):
            train_step(model, optimizer, case.network.example(step))
    narrow(wide, plan)
    _same_state(wide, twin, name)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Any
) -> None:
    """Takes one step, with what the method adds to the loss.

    Args:
        model (nn.Module): The network, with a pruner or without.
        optimizer (torch.optim.Optimizer): Of its parameters.
        x (Any): Its input.

    Raises:
        RefusedError: If no output depends on a parameter.
    """
    optimizer.zero_grad()
    torch.manual_seed(0)
    tensors = [t for t in tree_flatten(model(x))[0] if t.requires_grad]
    if not tensors:
        raise RefusedError('nothing can be trained')
    # Curved, and different for each position.
    loss = sum(
        (t * torch.linspace(0.5, 1, t.numel(), dtype=t.dtype).view(t.shape))
        .square()
        .mean()
        for t in tensors
    )
    if hasattr(model, 'pruner'):
        loss = loss + model.pruner.loss()
    # Products of activations make it large, and with it the rounding of
    # gradients that should be zero, such as those of biases before a norm.
    (loss / loss.detach().clamp_min(1)).backward()
    nn.utils.clip_grad_value_(model.parameters(), 1.0)
    optimizer.step()


def _same_state(wide: nn.Module, twin: nn.Module, what: str) -> None:
    expected, found = wide.state_dict(), twin.state_dict()
    assert list(expected) == list(found), 'other keys'
    for key, value in expected.items():
        close(value, found[key], f'{what}, {key}', TRAINED)
    # Gradients are sliced like weights.
    grads = {n: p.grad for n, p in twin.named_parameters()}
    for key, parameter in wide.named_parameters():
        if parameter.grad is None or grads[key] is None:
            missing = [
                g for g in (parameter.grad, grads[key]) if g is not None
            ]
            assert not any(g.any() for g in missing), f'{key}: no gradient'
            continue
        close(
            parameter.grad, grads[key], f'{what}, gradient of {key}', TRAINED
        )
