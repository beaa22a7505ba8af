# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is written down of every step, and its statistics."""

import torch
from accuracy.network import classifier
from sensitivity import Recorder, summarise, train

from mmlapp.core import LAPP, attach
from mmlapp.core.methods.lapp.sensitivity import SENSITIVITIES


def test_all_sensitivities_of_every_step_are_written_down():
    model, recorder = classifier(8, 0), Recorder()
    pruner = attach(
        model,
        torch.zeros(1, 3, 32, 32),
        scope='backbone',
        method=LAPP(update=recorder),
    )
    pixels = torch.randint(256, (128, 3, 32, 32), dtype=torch.uint8)
    data = pixels, torch.arange(128) % 10

    class Args:
        steps, seed, target = 2, 0, 0.5

    train(model, pruner, data, Args)
    assert len(recorder.record) == 2  # a dense step goes before
    kinds = torch.stack(recorder.record).unbind(1)
    for kind, found in zip(SENSITIVITIES, kinds, strict=True):
        assert found.shape == (2, len(pruner.groups))
        assert found.abs().sum() > 0
        assert kind == 'gradient' or (found >= 0).all()


def test_the_statistics_of_equal_groups_are_equal():
    record = torch.tensor([[1.0, 1.0], [3.0, 3.0], [2.0, 2.0], [5.0, 5.0]])
    found = summarise(record, ['a', 'b'])
    assert found['relative, first half'] == {'a': 1.0, 'b': 1.0}
    assert found['relative, second half'] == {'a': 1.0, 'b': 1.0}
