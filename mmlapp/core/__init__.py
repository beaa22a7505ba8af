# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pruning while training in plain PyTorch; no trainer needed."""

from .analysis.analyse import Analysis, analyse
from .attach import attach
from .bypass.branches import Bypass, register_bypass
from .bypass.merging import merge_bypasses
from .errors import PruningError, PruningWarning
from .methods import LAPP, Method, register_method
from .narrowing.narrow import narrow, shrink
from .plan.plan import ChannelPlan
from .progress import Phase
from .pruner import Pruner
from .score import Score, ScoreContext, register_score
from .trace.blocks.registry import register_block

__all__ = [
    'LAPP',
    'Analysis',
    'Bypass',
    'ChannelPlan',
    'Method',
    'Phase',
    'Pruner',
    'PruningError',
    'PruningWarning',
    'Score',
    'ScoreContext',
    'analyse',
    'attach',
    'merge_bypasses',
    'narrow',
    'register_block',
    'register_bypass',
    'register_method',
    'register_score',
    'shrink',
]
