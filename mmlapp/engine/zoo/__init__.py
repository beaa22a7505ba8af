# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The measure of the model zoo: does a network run, agree and shrink?"""

from .networks import NETWORKS, Entry, read_list
from .run import preload, run_all
from .table import OWN, markdown, summary

__all__ = [
    'NETWORKS',
    'OWN',
    'Entry',
    'markdown',
    'preload',
    'read_list',
    'run_all',
    'summary',
]
