# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The wrapper starts over after its model became small."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from torch import Tensor, distributed, nn

from mmlapp.core import attach, narrow
from mmlapp.engine import PruningDistributedDataParallel


class Net(BaseModel):
    """Two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, inputs: Tensor, mode: str = 'tensor') -> Tensor:
        return self.last(self.first(inputs))


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    store = f'file://{tmp_path / "store"}'
    distributed.init_process_group('gloo', store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_available(), reason='models go to the GPU')
def test_gradients_arrive_after_it_was_rebuilt(group: None) -> None:
    torch.manual_seed(0)
    model = Net()
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    pruner.begin({'flops': 0.5}, 1)
    pruner.finish()
    # The index of a GPU that a launcher gives is ignored on the CPU.
    wrapper = PruningDistributedDataParallel(model, device_ids=[0])
    wrapper.eval()
    old = wrapper.reducer
    narrow(model, pruner.plan())
    del pruner
    wrapper.rebuild()
    assert wrapper.module is model
    assert wrapper.reducer is not old
    assert not wrapper.training
    images = torch.rand(2, 3, 8, 8)
    wrapper.train()(images).square().mean().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(images).square().mean().backward()
    assert model.first.weight.shape == (4, 3, 3, 3)
    for grad, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad)
