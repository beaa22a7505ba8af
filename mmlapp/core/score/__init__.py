# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How much each channel matters."""

from . import (
    dependency,
    divergence,
    functionality,
    gradients,
    random,
    weights,
)
from .base import SCORES, Score, ScoreContext, register_score
from .normalise import NORMALISATIONS
from .scorer import Scorer

__all__ = [
    'NORMALISATIONS',
    'SCORES',
    'Score',
    'ScoreContext',
    'Scorer',
    'dependency',
    'divergence',
    'functionality',
    'gradients',
    'random',
    'register_score',
    'weights',
]
