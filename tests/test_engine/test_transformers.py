# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Runs that remove heads of attention, from the config to ONNX."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from resumed_runs import assert_equal, averaged, resumed
from torch import Tensor, nn

from mmlapp.engine.analysis.model_report import analyse_config
from mmlapp.engine.checkpoints.finite import check_finite
from mmlapp.engine.deployment.deploy import deploy, load_deployed
from mmlapp.engine.export.base import Settings
from mmlapp.engine.export.command import export_checkpoint
from mmlapp.engine.export.files import load
from mmlapp.engine.report.page import page_of
from mmlapp.engine.report.run import read_run
from mmlapp.engine.training.parts import narrowed_plan

MakeRunner = Callable[..., Runner]
VIT = dict(
    backbone=dict(
        type='VisionTransformer',
        arch=dict(
            embed_dims=16, num_layers=2, num_heads=4, feedforward_channels=24
        ),
        img_size=8,
        patch_size=4,
        drop_rate=0.1,
    ),
    neck=None,
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16),
)
SWIN = dict(
    backbone=dict(
        type='SwinTransformer',
        arch=dict(embed_dims=16, depths=[2, 2], num_heads=[2, 4]),
        img_size=8,
        patch_size=2,
        window_size=2,
        out_indices=(1,),
        drop_path_rate=0.1,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=32),
)
NETWORKS = {'vit': VIT, 'swin': SWIN}
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def attending(network: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Has the run of a tiny classifier train a transformer instead."""

    def change(config: dict[str, Any]) -> None:
        model = config['model']
        for name in ('backbone', 'neck', 'head'):
            model[name] = copy.deepcopy(network[name])
        config['optim_wrapper'].update(
            type='mmlapp.AmpPruningOptimWrapper',
            dtype='bfloat16',
            optimizer=dict(type='AdamW', lr=0.01),
        )
        config['custom_hooks'].insert(0, dict(type='EMAHook', momentum=0.1))
        config['custom_hooks'][1].update(
            prune_epochs=1.5, target=dict(flops=0.6)
        )
        loader = copy.deepcopy(config['train_dataloader'])
        loader['sampler']['shuffle'] = False
        config.update(
            test_dataloader=loader,
            test_cfg={},
            test_evaluator=dict(type='Accuracy'),
            log_level='INFO',
        )

    return change


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(IMAGES)
    return found


def heads_of(model: nn.Module) -> list[int]:
    return [
        module.num_heads
        for module in model.modules()
        if hasattr(module, 'num_heads') and hasattr(module, 'qkv')
    ]


@pytest.mark.parametrize(
    'name', ['vit', pytest.param('swin', marks=pytest.mark.slow)]
)
def test_a_run_removes_heads_and_goes_on_small(
    make_runner: MakeRunner, tmp_path: Path, name: str
) -> None:
    """With averages, bfloat16, resumption, and everything that comes after."""
    change = attending(NETWORKS[name])
    written: dict[str, Any] = {}

    def noting(config: dict[str, Any]) -> None:
        change(config)
        written.update(copy.deepcopy(config))

    first = make_runner(noting, work_dir=tmp_path / 'a', narrow=True)
    dense = heads_of(first.model)
    first.train()
    check_finite(first.model)
    plan = narrowed_plan(first)
    assert 0.59 <= plan.ratios()['flops'] <= 0.6
    # Some heads went and some stayed; the modules count what there is.
    left = [plan.groups[group].count for group in plan.heads]
    assert [plan.groups[group].size for group in plan.heads] == dense
    assert heads_of(first.model) == heads_of(averaged(first)) == left
    assert sum(left) < sum(dense)
    shrunk = {n for n, kept in plan.groups.items() if kept.count < kept.size}
    assert shrunk & plan.heads.keys()
    assert shrunk - plan.heads.keys()
    assert outputs(first.model).isfinite().all()

    # Epoch 1 is within the phase, epoch 2 after it.
    for epoch in (1, 2):
        path = tmp_path / 'a' / f'epoch_{epoch}.pth'
        again = make_runner(
            resumed(change, path), work_dir=tmp_path / str(epoch), narrow=True
        )
        again.train()
        assert narrowed_plan(again) == plan
        assert_equal(again.model, first.model)
        assert_equal(averaged(again), averaged(first))

    cfg, checkpoint = Config(written), tmp_path / 'a' / 'epoch_3.pth'
    _is_tested_deployed_and_exported(
        make_runner, change, cfg, checkpoint, averaged(first)
    )
    _is_told(cfg, tmp_path / 'a', dense, left)


def _is_tested_deployed_and_exported(
    make_runner: MakeRunner,
    change: Callable[[dict[str, Any]], None],
    cfg: Config,
    checkpoint: Path,
    expected: nn.Module,
) -> None:
    def test(config: dict[str, Any]) -> None:
        change(config)
        config['load_from'] = str(checkpoint)

    folder = checkpoint.parent.parent
    second = make_runner(test, work_dir=folder / 'b', narrow=True)
    accuracy = second.test()['accuracy/top1']
    assert_equal(averaged(second), expected)

    result = deploy(cfg, checkpoint, folder / 'out', name='small')
    assert all(check.passed for check in result.checks)
    slim = load_deployed(result.config, result.checkpoint)
    torch.testing.assert_close(outputs(slim), outputs(expected))

    # A plain model of its own config, which no hook knows of any more.
    config = Config.fromfile(result.config)
    assert config.model.type == 'mmlapp.DeployedModel'

    def deployed(kept: dict[str, Any]) -> None:
        test(kept)
        kept.update(
            model=config.model,
            load_from=str(result.checkpoint),
            optim_wrapper=None,
            train_cfg=None,
            train_dataloader=None,
            custom_hooks=[],
        )

    third = make_runner(deployed, work_dir=folder / 'c')
    assert third.test()['accuracy/top1'] == accuracy

    # mmpretrain's Swin computes its batch as a number, dense as pruned.
    swin = config.model.backbone.type == 'SwinTransformer'
    report = export_checkpoint(
        config,
        result.checkpoint,
        folder / 'slim',
        ['onnx'],
        Settings(dynamic='none' if swin else 'batch'),
        shape=IMAGES.shape[1:],
    )
    assert report.passed, report.statuses
    (found,) = load(folder / 'slim.onnx')(IMAGES)
    torch.testing.assert_close(found, outputs(slim), rtol=1e-4, atol=1e-5)


def _is_told(
    cfg: Config, work_dir: Path, dense: list[int], left: list[int]
) -> None:
    """What a person reads names heads, before, while and after they go."""
    report = analyse_config(cfg)
    assert [report.groups[name] for name in report.heads] == dense
    (log,) = work_dir.glob('*/*.log')
    text = log.read_text()
    sums = f'heads {sum(dense)} → {sum(left)}'
    assert f'and {sum(dense)} heads; flops 60.00 %' in text
    assert f' and {sums} in ' in text
    for size, count in zip(dense, left, strict=True):
        assert f' {size} → {count} heads ' in text
    page = page_of(read_run(work_dir))
    assert f'heads of {len(dense)} groups' in page
