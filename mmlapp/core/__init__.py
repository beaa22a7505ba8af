# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pruning while training in plain PyTorch; no trainer needed."""

from .analysis.analyse import Analysis, analyse
from .attach import attach
from .bypass.branches import Bypass, register_bypass
from .bypass.merging import merge_bypasses
from .errors import PruningError, PruningWarning
from .methods.lapp.controller import Controller
from .methods.schedule import Schedule
from .narrowing.narrow import narrow, shrink
from .plan.plan import ChannelPlan
from .pruner import LAPP
from .score.scores import LayerChannels, register_score
from .trace.blocks.registry import register_block

__all__ = [
    'LAPP',
    'Analysis',
    'Bypass',
    'ChannelPlan',
    'Controller',
    'LayerChannels',
    'PruningError',
    'PruningWarning',
    'Schedule',
    'analyse',
    'attach',
    'merge_bypasses',
    'narrow',
    'register_block',
    'register_bypass',
    'register_score',
    'shrink',
]
