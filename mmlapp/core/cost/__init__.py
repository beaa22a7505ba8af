# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is budgeted, one file per cost."""

from .base import COSTS, Cost, CostContext, StoredTensor, register_cost
from .flops import Flops
from .latency import Latency
from .latency_table import LatencyTable
from .multilinear import MultilinearCost, Term, term_of
from .parameters import Parameters

__all__ = [
    'COSTS',
    'Cost',
    'CostContext',
    'Flops',
    'Latency',
    'LatencyTable',
    'MultilinearCost',
    'Parameters',
    'StoredTensor',
    'Term',
    'register_cost',
    'term_of',
]
