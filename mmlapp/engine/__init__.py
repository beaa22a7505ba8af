# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""MMEngine adapters: they say when, ``mmlapp.core`` says what."""

from .checkpoints.safe_checkpoint import SafeCheckpointHook
from .models.deployed import deployed_model
from .models.prunable import prunable_model
from .training.model_wrapper import LAPPDistributedDataParallel
from .training.optim_wrapper import AmpLAPPOptimWrapper, LAPPOptimWrapper
from .training.pruning_hook import LAPPHook

__all__ = [
    'AmpLAPPOptimWrapper',
    'LAPPDistributedDataParallel',
    'LAPPHook',
    'LAPPOptimWrapper',
    'SafeCheckpointHook',
    'deployed_model',
    'prunable_model',
]
