# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pruning while training in plain PyTorch; no trainer needed."""

from .analysis.analyse import analyse
from .analysis.result import Analysis
from .analysis.ways import Way
from .attach import attach
from .bypass import Branch, ConvBranch, Parallel, register_branch
from .bypass.merging import merge_bypasses
from .cost import Cost, MultilinearCost, register_cost
from .distillation import (
    Distillation,
    LabelRefinement,
    LogitDistillation,
    register_distillation,
)
from .errors import LayerRefusedError, PruningError, PruningWarning
from .handover.fuse import Fused, fuse
from .handover.load_slim import load_slim
from .handover.slim import save_slim
from .methods import LAPP, Method, register_method
from .narrowing.narrow import narrow
from .plan.plan import ChannelPlan
from .progress import Phase
from .pruner import Pruner
from .pruner.stability import StableEnd
from .score import Score, ScoreContext, register_score
from .trace.blocks.registry import register_block
from .units import Unit, register_unit

__all__ = [
    'LAPP',
    'Analysis',
    'Branch',
    'ChannelPlan',
    'ConvBranch',
    'Cost',
    'Distillation',
    'Fused',
    'LabelRefinement',
    'LayerRefusedError',
    'LogitDistillation',
    'Method',
    'MultilinearCost',
    'Parallel',
    'Phase',
    'Pruner',
    'PruningError',
    'PruningWarning',
    'Score',
    'ScoreContext',
    'StableEnd',
    'Unit',
    'Way',
    'analyse',
    'attach',
    'fuse',
    'load_slim',
    'merge_bypasses',
    'narrow',
    'register_block',
    'register_branch',
    'register_cost',
    'register_distillation',
    'register_method',
    'register_score',
    'register_unit',
    'save_slim',
]
