# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A run with all five extensions of docs/extending.md, deployed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmlapp.core import ChannelPlan
from mmlapp.engine.deployment.deploy import deploy


@pytest.mark.usefixtures('extensions')
def test_a_run_with_extensions_is_deployed(
    make_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    written: dict[str, Any] = {}

    def extend(config: dict[str, Any]) -> None:
        config['model'].update(
            method='fading',
            score='activity',
            bypass=dict(type='halves', norm=True),
            unit='pairs',
            costs=['flops', 'parameters', 'activations'],
        )
        target = dict(flops=0.7, activations=0.8)
        config['custom_hooks'][0]['target'] = target
        written.update(Config(config).to_dict())

    runner = make_runner(extend, narrow=True)
    runner.train()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        result = deploy(
            Config(written), tmp_path / 'epoch_3.pth', tmp_path / 'out', 'x'
        )
    assert all(check.passed for check in result.checks)
    plan = ChannelPlan.load(result.plan)
    assert plan.unit == 'pairs'
    assert plan.branches
    ratios = plan.ratios()
    assert ratios['flops'] <= 0.7
    assert ratios['activations'] <= 0.8
    assert max(ratios['flops'] / 0.7, ratios['activations'] / 0.8) > 0.95
