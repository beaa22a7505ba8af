# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Narrow weights that an ``init_cfg`` names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmlapp.core import PruningError
from mmlapp.engine.launch import build_runner
from mmlapp.engine.models.plans import narrow_model, plans_of

MakeRunner = Callable[..., Runner]
WIDE = (
    r"init_cfg=dict\(type='Pretrained', checkpoint='.*slim.pth'%s\): .* of a "
    r'narrowed model, this %s is not: backbone\.conv1.weight has shape '
    r"\(10, .*\(16, .*'mmlapp.DeployedModel'.*load_from"
)


class Built(Runner):
    """As the tools build it, of the same config."""

    def __new__(cls, **config: Any) -> Any:
        return build_runner(Config({**config, 'launcher': 'none'}))


@pytest.fixture
def slim(make_runner: MakeRunner, tmp_path: Path) -> Any:
    """The narrow model of a run, saved as ``slim.pth``."""
    model: Any = make_runner().model
    model.pruner.begin({'flops': 0.5}, steps=1)
    model.pruner.finish()
    narrow_model(model, model.pruner.plan())
    data = {'state_dict': model.state_dict(), 'meta': {}}
    torch.save(data, tmp_path / 'slim.pth')
    return model


def setting(tmp_path: Path, **more: Any) -> dict[str, Any]:
    path = str(tmp_path / 'slim.pth')
    return dict(type='Pretrained', checkpoint=path, **more)


@pytest.mark.parametrize(
    ('plain', 'prefix'), [(True, 'backbone'), (False, 'backbone.')]
)
def test_a_wide_backbone_gets_no_narrow_weights(
    make_runner: MakeRunner,
    slim: Any,
    tmp_path: Path,
    plain: bool,
    prefix: str,
) -> None:
    def change(config: dict[str, Any]) -> None:
        config['model']['backbone']['init_cfg'] = [
            dict(type='Kaiming', layer='Conv2d'),
            setting(tmp_path, prefix=prefix),
        ]

    runner: Any = make_runner(change, kind=Built, plain=plain)
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    match = WIDE % (', prefix=.*', 'CIFARResNet')
    with pytest.raises(PruningError, match=match):
        runner.train()
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_whole_prunable_model_is_to_be_loaded_instead(
    make_runner: MakeRunner, slim: Any, tmp_path: Path
) -> None:
    """MMEngine forbids new parameters while it initialises."""

    def change(config: dict[str, Any]) -> None:
        config['model']['init_cfg'] = setting(tmp_path)

    runner = make_runner(change)
    with pytest.raises(PruningError, match=WIDE % ('', 'ImageClassifier')):
        runner.train()


def test_a_narrow_backbone_takes_them(
    make_runner: MakeRunner, slim: Any, tmp_path: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        config['model']['backbone'] = dict(
            type='mmlapp.DeployedModel',
            architecture='mmlapp.CIFARResNet',
            depth=8,
            plan=plans_of(slim)[0].to_json(),
            prefix='backbone.',
            input_shape=(3, 8, 8),
            init_cfg=setting(tmp_path, prefix='backbone.'),
        )
        config['model']['head'].update(
            num_classes=12, in_channels=slim.head.fc.in_features
        )

    runner: Any = make_runner(change, kind=Built, plain=True)
    runner._init_model_weights()
    for name, value in slim.backbone.state_dict().items():
        assert torch.equal(runner.model.backbone.state_dict()[name], value)


def test_a_beginning_that_no_name_has(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    path = tmp_path / 'a.pth'
    torch.save({'backbone.conv.weight': torch.ones(1)}, path)

    def change(config: dict[str, Any]) -> None:
        config['model']['backbone']['init_cfg'] = dict(
            type='Pretrained', checkpoint=str(path), prefix='backone.'
        )

    runner = make_runner(change, kind=Built, plain=True)
    with pytest.raises(
        PruningError,
        match=r"prefix='backone\.'\): no name .* with backbone\.$",
    ):
        runner.train()


def test_other_settings_are_left_to_mmengine(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        config['model']['backbone']['init_cfg'] = dict(
            type='Pretrained', checkpoint=str(tmp_path / 'none.pth')
        )

    runner = make_runner(change, kind=Built, plain=True)
    with pytest.raises(PruningError, match=r'none\.pth.*there is no such'):
        runner.train()
