# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Small real data that needs no download, and what makes more of it."""

from .digits import Digits
from .digits_detection import DigitsDetection
from .expanded import ExpandedDataset
from .patch_shuffle import PatchShuffle

__all__ = ['Digits', 'DigitsDetection', 'ExpandedDataset', 'PatchShuffle']
