# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The configs of all variants, and what is noted; runs take minutes."""

import json

import pytest
import torch
import variants
from former import ALL_GROUPS
from mmengine.config import Config
from torch import nn

from mmlapp.core import attach

TASK = variants.TASKS['classification']


@pytest.mark.parametrize('name', variants.VARIANTS)
def test_a_variant_keeps_the_batch_of_the_recipe(tmp_path, name):
    variant, path = variants.VARIANTS[name], tmp_path / 'case.py'
    variants.write_config(TASK, variant, path)
    found = Config.fromfile(path)
    base = Config.fromfile(variants.ROOT / TASK.pruned)
    batch = found.train_dataloader.batch_size * variant.processes
    batch *= found.optim_wrapper.get('accumulative_counts', 1)
    assert batch == base.train_dataloader.batch_size
    assert found.custom_hooks[0] == base.custom_hooks[0]
    # As when they were run.
    base.model.update(divisor=1, method=ALL_GROUPS['method'])
    assert found.model == {**base.model, 'keep_streams': False, 'min_keep': 0}


def test_a_run_notes_the_metric_and_the_flops_of_its_plan(
    tmp_path, monkeypatch
):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    pruner = attach(model, torch.rand(1, 3, 4, 4), method='uniform')
    pruner.begin({'flops': 0.5}, 1)
    pruner.step()

    def call(script, *arguments, log):
        if script == 'train.py':
            folder.mkdir()
            (folder / 'last_checkpoint').write_text('epoch_1.pth')
            return
        assert script == 'deploy.py'
        out = arguments[2]
        out.mkdir()
        pruner.plan().save(out / f'{folder.name}.plan.json')

    folder = tmp_path / 'plain'
    monkeypatch.setattr(variants, 'call', call)
    monkeypatch.setattr(variants, 'score', lambda *args: 97.5)
    row = variants.run(TASK, variants.VARIANTS['plain'], folder)
    # Both layers keep 4 of 8 channels.
    assert row == {'accuracy/top1': 97.5, 'flops': 0.5}
    assert json.loads((folder / 'result.json').read_text()) == row
