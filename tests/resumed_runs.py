# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What tests of resumed runs share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner
from torch import nn

Change = Callable[[dict[str, Any]], None]


def resumed(change: Change, checkpoint: Path) -> Change:
    """Changes a config as for the whole run, and resumes it."""

    def resume(config: dict[str, Any]) -> None:
        change(config)
        config['resume'] = True
        config['load_from'] = str(checkpoint)

    return resume


def averaged(runner: Runner) -> nn.Module:
    """The model of averaged weights."""
    (hook,) = [h for h in runner.hooks if hasattr(h, 'ema_model')]
    module: nn.Module = hook.ema_model.module
    return module


def assert_equal(
    found: nn.Module, expected: nn.Module, atol: float = 0
) -> None:
    """All values of two models, in the same order."""
    values = expected.state_dict()
    assert list(found.state_dict()) == list(values)
    for name, value in found.state_dict().items():
        torch.testing.assert_close(
            value, values[name], rtol=0, atol=atol, msg=name
        )
