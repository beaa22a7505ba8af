# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The table of blocks, a file for each idea."""

from ..writer import BLOCKS
from . import (  # noqa: F401
    attention,
    control,
    convolutions,
    cuts,
    gates,
    joins,
    known,
    lines,
    movement,
    norms,
    numbers,
    parameters,
    plain,
    sharing,
    space,
    tokens,
    vectors,
    weights,
)

__all__ = ['BLOCKS']
