# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""MMEngine adapters: they say when, ``mmlapp.core`` says what."""

from .atomic import SafeCheckpointHook
from .builder import prunable_model
from .deployed import deployed_model
from .hook import LAPPHook
from .optim_wrapper import AmpLAPPOptimWrapper, LAPPOptimWrapper
from .wrapper import LAPPDistributedDataParallel

__all__ = [
    'AmpLAPPOptimWrapper',
    'LAPPDistributedDataParallel',
    'LAPPHook',
    'LAPPOptimWrapper',
    'SafeCheckpointHook',
    'deployed_model',
    'prunable_model',
]
