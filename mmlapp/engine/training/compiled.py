# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What stays outside of a compiled training step."""

from __future__ import annotations

from functools import cache

import torch

from mmlapp.core import LAPP


@cache
def leave_uncompiled() -> None:
    """Keeps the bookkeeping of thresholds out of what torch compiles.

    MMEngine compiles the whole ``train_step``. Scores have another shape in
    every group and the schedule another number in every step: each would be
    compiled anew, until the compiler gives up. Imports the compiler, which
    takes seconds: for runs that compile.
    """
    for name in ('loss', 'step'):
        setattr(LAPP, name, torch.compiler.disable(getattr(LAPP, name)))
