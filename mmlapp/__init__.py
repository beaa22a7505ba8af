# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Layer-adaptive progressive pruning while training, for OpenMMLab."""

from .version import __version__

__all__ = ['__version__']
