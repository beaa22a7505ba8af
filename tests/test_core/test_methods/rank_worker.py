# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One of two processes over gloo that run a phase of every method.

``python rank_worker.py STORE RANK OUT``: the two see different images.
"""

import sys

import torch
import torch.distributed as dist
from every_method import EVERY_METHOD
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmlapp.core import attach

STEPS = 10


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 4, 3, padding=1),
    )


def run(arguments, rank):
    """Returns the pruner's state after every step of a phase."""
    model, images = network(), torch.randn(2, 3, 8, 8)
    # Statistics belong to the images that a process has seen.
    model[1].eval()
    pruner = attach(model, images, **arguments)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    pruner.prepare(model, [lambda: model(images + rank)])
    pruner.begin({'flops': 0.6}, STEPS)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    dice = torch.Generator().manual_seed(rank)
    states = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        batch = torch.randn(2, 3, 8, 8, generator=dice)
        loss = (wrapped(batch) - 1).square().mean() + pruner.loss()
        loss.backward()
        optimizer.step()
        pruner.step()
        states.append({k: v.clone() for k, v in pruner.state_dict().items()})
    return states


if __name__ == '__main__':
    store, rank, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    dist.init_process_group(
        'gloo', init_method=f'file://{store}', rank=rank, world_size=2
    )
    found = {name: run(how, rank) for name, how in EVERY_METHOD.items()}
    torch.save(found, out)
    dist.destroy_process_group()
