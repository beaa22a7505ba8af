# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a small network learns from a large one beside the labels."""

from .base import (
    DISTILLATIONS,
    Distillation,
    freeze,
    register_distillation,
)
from .features import ChannelWise, FeatureMSE
from .logits import LogitDistillation
from .refinement import LabelRefinement

__all__ = [
    'DISTILLATIONS',
    'ChannelWise',
    'Distillation',
    'FeatureMSE',
    'LabelRefinement',
    'LogitDistillation',
    'freeze',
    'register_distillation',
]
