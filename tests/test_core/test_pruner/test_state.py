# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is held, whatever the method; see also ``test_state_dicts.py``."""

import pytest
import torch
from pruning_steps import at_step, train

from mmlapp.core import Phase, attach
from mmlapp.core.progress import Progress


def test_progress_is_read_without_asking_the_device(model, pruner):
    pruner.begin({'flops': 0.5}, 20)
    at_step(pruner, 7)
    model.to('meta')  # where nothing can be read
    assert pruner.phase == Phase.PRUNING
    assert pruner.progress == Progress(Phase.PRUNING, 7, 20, {'flops': 0.5})
    assert pruner.targets()['flops'] == pytest.approx(0.5 ** (7 / 16))


def test_masks_and_progress_are_taken_over(make, images, model, pruner):
    other = make()
    attach(other, images)
    pruner.begin({'flops': 0.5}, 4)
    train(model, images, 4)
    other.pruner.take_over(pruner)
    assert other.pruner.phase == Phase.FINISHED
    assert torch.equal(other.pruner.mask, pruner.mask)
    assert other.pruner.method.threshold is not pruner.method.threshold
