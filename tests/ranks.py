# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Two processes over gloo that run phases, and see different images.

``python ranks.py STORE RANK HOW OUT`` is one of them: ``HOW`` is JSON, the
arguments of ``attach`` by name; the states of every phase go to ``OUT``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmlapp.core import attach

STEPS = 10


def states_of_both(folder, how):
    """States of the pruners of two processes, by name and step.

    Args:
        folder (Path): For what the processes write.
        how (dict[str, dict]): Arguments of `attach`, by name.
    """
    outs = folder / '0.pth', folder / '1.pth'
    running = [
        subprocess.Popen(
            [
                sys.executable, __file__, folder / 'store', str(rank),
                json.dumps(how), out,
            ],
            env=environment(),
        )
        for rank, out in enumerate(outs)
    ]  # fmt: skip
    assert [process.wait(timeout=500) for process in running] == [0, 0]
    return [torch.load(out) for out in outs]


def environment():
    """That of a process that imports this checkout and its tests."""
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests.parent), str(tests)])
    return dict(os.environ, PYTHONPATH=paths, OMP_NUM_THREADS='1')


def network():
    """A classifier, as some scores want it."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
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
    store, rank, how, out = sys.argv[1:]
    dist.init_process_group(
        'gloo', init_method=f'file://{store}', rank=int(rank), world_size=2
    )
    found = {n: run(each, int(rank)) for n, each in json.loads(how).items()}
    torch.save(found, out)
    dist.destroy_process_group()
