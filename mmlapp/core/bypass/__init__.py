# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Branches that help thin layers."""

from .branch import BRANCHES, Branch, check_bypass, register_branch
from .convolution import ConvBranch
from .parallel import Parallel

__all__ = [
    'BRANCHES',
    'Branch',
    'ConvBranch',
    'Parallel',
    'check_bypass',
    'register_branch',
]
