# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Backbones for 32x32 images that OpenMMLab does not have."""

from .cifar_resnet import CIFARResNet, PadShortcut
from .cifar_vgg import CIFARVGG

__all__ = ['CIFARVGG', 'CIFARResNet', 'PadShortcut']
