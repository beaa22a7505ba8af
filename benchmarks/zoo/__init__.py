# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The measure of the model zoo: does a network run, agree and shrink?

    python benchmarks/zoo --json docs/zoo.json
    pip install timm
    python benchmarks/zoo benchmarks/libraries.txt --json docs/libraries.json

Every network gets random weights and random masks in a process of its own and
is compared, narrowed, with itself. What is finished in the file of ``--json``
is not measured again.
"""

from .networks import NETWORKS, Entry, read_list
from .run import run_all
from .table import markdown, summary

__all__ = ['NETWORKS', 'Entry', 'markdown', 'read_list', 'run_all', 'summary']
