# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One of two processes over gloo that rank by several scores.

``python rank_worker.py STORE RANK SCORE...``: the two see different images.
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmlapp.core import attach

STEPS = 6


def run(name, rank):
    """Returns the pruner's state after every step of a phase."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    images = torch.randn(2, 3, 8, 8)
    # Statistics belong to the images that a process has seen.
    model[1].eval()
    method = dict(type='ranking', steps=3)
    pruner = attach(model, images, method=method, score=name)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    pruner.prepare(model, [lambda: model(images + rank)])
    pruner.begin({'flops': 0.6}, STEPS)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    dice = torch.Generator().manual_seed(rank)
    states = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        batch = torch.randn(2, 3, 8, 8, generator=dice)
        (wrapped(batch) - 1).square().mean().backward()
        optimizer.step()
        pruner.step()
        states.append({k: v.clone() for k, v in pruner.state_dict().items()})
    return states


if __name__ == '__main__':
    store, rank, names = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    dist.init_process_group(
        'gloo', init_method=f'file://{store}', rank=rank, world_size=2
    )
    torch.save({name: run(name, rank) for name in names}, f'{rank}.pth')
    dist.destroy_process_group()
