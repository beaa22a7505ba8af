# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner
from resumed_runs import averaged

from mmlapp.core import Phase, PruningError
from mmlapp.engine.hook_list import averaged_models


class Watch(Hook):
    """Notes what is evaluated: by then averages stand in the model."""

    def __init__(self):
        self.seen = []

    def before_val_epoch(self, runner):
        pruner = runner.model.pruner
        self.seen.append((pruner.phase, pruner.ratios()['flops']))


@pytest.mark.parametrize('update_buffers', [False, True])
def test_averages_are_masked_like_the_model(
    make_runner, tmp_path, update_buffers
):
    def change(config):
        config['custom_hooks'].append(
            dict(
                type='EMAHook',
                ema_type='ExponentialMovingAverage',
                momentum=0.1,
                update_buffers=update_buffers,
            )
        )
        config['val_dataloader'] = config['train_dataloader']
        config.update(val_cfg={}, val_evaluator=dict(type='Accuracy'))

    runner = make_runner(change)
    watch = Watch()
    runner.register_hook(watch, 'VERY_LOW')
    runner.train()
    pruner = runner.model.pruner
    assert watch.seen[-1] == (Phase.FINISHED, pruner.ratios()['flops'])
    saved = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)
    assert torch.equal(saved['state_dict']['pruner.gate'], pruner.gate)
    assert saved['state_dict']['pruner.progress'][0] == Phase.FINISHED
    # The weights are averages all the same.
    weight = saved['state_dict']['backbone.conv1.weight']
    assert not torch.equal(weight, runner.model.backbone.conv1.weight)


def test_where_masks_stay_weights_mean_the_same_without_them(
    make_runner, tmp_path
):
    """Whoever loads them into the model of a plain config."""

    def change(config):
        config['custom_hooks'].append(dict(type='EMAHook', momentum=0.1))
        config['optim_wrapper']['optimizer']['weight_decay'] = 0.01

    runner = make_runner(change)
    runner.train()
    assert not runner.model.pruner.mask.all()
    plain = make_runner(plain=True, work_dir=tmp_path / 'plain').model.eval()
    image = torch.rand(4, 3, 8, 8)
    saved = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)
    # Both are saved, by swapped names.
    for key, masked in (
        ('state_dict', averaged(runner)),
        ('ema_state_dict', runner.model),
    ):
        weights = {
            name.removeprefix('module.'): value
            for name, value in saved[key].items()
        }
        found = plain.load_state_dict(weights, strict=False)
        assert not found.missing_keys
        torch.testing.assert_close(
            plain(image), masked.eval()(image), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize('resume', [False, True])
def test_averages_that_are_not_there_when_weights_come(
    make_runner, tmp_path, resume
):
    """A flexible runner makes them too late, for MMEngine as well."""
    dense = make_runner(plain=True).model.state_dict()
    torch.save({'state_dict': dense, 'meta': {}}, tmp_path / 'a.pth')

    def change(config):
        config['custom_hooks'].append(dict(type='EMAHook'))
        config['strategy'] = dict(type='mmengine.SingleDeviceStrategy')
        config.update(load_from=str(tmp_path / 'a.pth'), resume=resume)

    match = r'load_from or resume: FlexibleRunner loads before EMAHook .*Use R'
    with pytest.raises(PruningError, match=match):
        make_runner(change, kind=FlexibleRunner).train()


@pytest.mark.parametrize('resume', [False, True])
def test_averages_may_be_loaded_before_the_model_is_narrow(
    make_runner, tmp_path, resume
):
    """A hook of a higher priority than ours has narrowed its copy already."""

    def change(config):
        config['custom_hooks'].append(
            dict(type='EMAHook', momentum=0.1, priority='HIGH')
        )

    whole = make_runner(change, epochs=4, narrow=True)
    whole.train()
    saved = str(tmp_path / 'epoch_3.pth')

    def go_on(config):
        change(config)
        config.update(load_from=saved, resume=resume)

    again = make_runner(
        go_on, work_dir=tmp_path / 'again', epochs=4, narrow=True
    )
    again.train()
    (copy,) = averaged_models(again)
    mine = again.model.state_dict()
    # It goes on to follow the model: nothing of it is a former parameter.
    for name, value in copy.module.state_dict().items():
        assert value.shape == mine[name].shape
    start = torch.load(saved, weights_only=False)['state_dict']
    name = 'backbone.conv1.weight'
    assert not torch.equal(copy.module.state_dict()[name], start[name])
    if resume:
        (expected,) = averaged_models(whole)
        for name, value in expected.module.state_dict().items():
            assert torch.equal(copy.module.state_dict()[name], value)
