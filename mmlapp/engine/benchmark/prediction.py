# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Predicted against measured latency of a network that was pruned for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ..deployment.deploy import Deployment, load_deployed
from ..latency.setting import Setting, device_name
from ..models.default_scope import default_scope_of
from .networks import networks_of
from .report import prediction_text
from .rows import Candidate, Inputs, bench

# As a table measures the networks that its scale is taken from.
ROUNDS = 60


def setting_here(described: Mapping[str, Any]) -> Setting:
    """Returns the setting of a table, on the device that is here.

    Args:
        described (Mapping[str, Any]): What a table was measured for.
    """
    kinds = ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]
    device = next(
        (k for k in kinds if device_name(k) == described.get('device')), 'cpu'
    )
    return Setting(
        described.get('backend', 'torch'),
        described.get('threads', 1),
        described.get('batch', 1),
        device,
    )


def latency_text(
    cfg: Config,
    checkpoint: str | Path,
    written: Deployment,
    rounds: int = ROUNDS,
) -> str:
    """Measures a deployed network as its table was, and compares both.

    Args:
        cfg (Config): Of the run.
        checkpoint (str or Path): From after its phase.
        written (Deployment): What was deployed of it.
        rounds (int): Timed runs. Defaults to 60.

    Returns:
        str: What was predicted and measured, or why nothing was; empty if
        latency is no cost of the run.
    """
    found = networks_of(cfg, checkpoint)
    prediction = found.prediction
    if prediction is None:
        return ''
    setting = setting_here(prediction.setting)
    if prediction.setting.get('device') != device_name(setting.device):
        return prediction_text(prediction, [], setting)
    dense = found.candidates[0]
    with default_scope_of(cfg):
        model = load_deployed(written.config, written.checkpoint)
    # Not that of the run, which has bypasses still that may have been merged.
    # Times are compared, and no outputs with those of the masked network.
    pair = [dense, Candidate('slim', dense.network.of(model))]
    for candidate in pair:
        candidate.network.to(setting.device)
    image = found.inputs.batch
    # Without real images: only times are asked for.
    inputs = Inputs(image.repeat(setting.batch, 1, 1, 1), image[:0])
    rows = bench(pair, inputs, [setting], rounds)
    return prediction_text(prediction, rows, setting)
