# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The child of a prunable network."""

from .pruner import Pruner

__all__ = ['Pruner']
