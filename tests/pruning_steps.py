# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Steps of a pruning phase, for tests of the pruner and its methods."""

from dataclasses import replace

import torch


def task_loss(model, images):
    return model(images).square().mean()


def train(model, images, steps):
    pruner = model.pruner
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(steps):
        loss = task_loss(model, images) + pruner.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step()


def kept_by_group(pruner):
    return [int(p.sum()) for p in pruner.mask.split(pruner.sizes)]


def at_step(pruner, done):
    pruner.progress = replace(pruner.progress, done=done)


def decide(pruner):
    """Compares scores with thresholds that a test has set."""
    with torch.no_grad():
        pruner.gate.copy_(pruner.method.step(pruner))
