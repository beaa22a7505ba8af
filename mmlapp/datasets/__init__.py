# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Small real data that needs no download."""

from .digits import Digits
from .digits_detection import DigitsDetection

__all__ = ['Digits', 'DigitsDetection']
