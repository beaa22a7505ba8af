# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Branches that help thin layers."""

from .branch import BRANCHES, Branch, check_bypass, register_branch
from .convolution import ConvBranch

__all__ = [
    'BRANCHES',
    'Branch',
    'ConvBranch',
    'check_bypass',
    'register_branch',
]
