# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How much do scores differ: correlation, applicability, kept channels."""

from .collect import Calibration
from .comparison import ScoreComparison, compare_scores

__all__ = ['Calibration', 'ScoreComparison', 'compare_scores']
