# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pruning while training in plain PyTorch; no trainer needed."""

from .analyse import Analysis, analyse
from .attach import attach
from .bypass import Bypass, register_bypass
from .constraint import Schedule
from .controller import Controller
from .errors import PruningError, PruningWarning
from .importance import LayerChannels, register_score
from .lapp import LAPP
from .merge import merge_bypasses
from .plan import ChannelPlan
from .shrink import narrow, shrink

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
    'register_bypass',
    'register_score',
    'shrink',
]
