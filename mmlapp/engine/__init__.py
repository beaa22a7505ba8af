# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""MMEngine adapters: they say when, ``mmlapp.core`` says what."""

from .checkpoints.random_state import RandomStateHook
from .checkpoints.safe_checkpoint import SafeCheckpointHook
from .distillation.distiller import Distiller
from .distillation.label_refiner import LabelRefiner
from .lengthening.equal_cost import equal_cost
from .models.deployed import deployed_model
from .models.prunable import prunable_model
from .training.model_wrapper import PruningDistributedDataParallel
from .training.optim_wrapper import AmpPruningOptimWrapper, PruningOptimWrapper
from .training.pruning_hook import PruningHook
from .training.ranks import RankCheckHook

__all__ = [
    'AmpPruningOptimWrapper',
    'Distiller',
    'LabelRefiner',
    'PruningDistributedDataParallel',
    'PruningHook',
    'PruningOptimWrapper',
    'RandomStateHook',
    'RankCheckHook',
    'SafeCheckpointHook',
    'deployed_model',
    'equal_cost',
    'prunable_model',
]
