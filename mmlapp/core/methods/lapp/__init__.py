# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""LAPP, Layer Adaptive Progressive Pruning, and its threshold rules."""

from .balance import Balance
from .gradient import Gradient
from .method import LAPP

__all__ = ['LAPP', 'Balance', 'Gradient']
