# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Who decides which channels live, one file or folder per method."""

from .adaptive_l1 import AdaptiveL1
from .admm import ADMM
from .base import METHODS, Method, register_method
from .lapp import LAPP
from .one_cycle import OneCycle
from .psap import PSAP
from .random import Random
from .ranking import Ranking
from .soft import Soft
from .uniform import Uniform

__all__ = [
    'ADMM',
    'LAPP',
    'METHODS',
    'PSAP',
    'AdaptiveL1',
    'Method',
    'OneCycle',
    'Random',
    'Ranking',
    'Soft',
    'Uniform',
    'register_method',
]
