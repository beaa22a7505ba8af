# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether a forward is running, of whatever module."""

from __future__ import annotations

import sys
from types import FrameType

import torch
from torch import nn

# Runs at every call of a module, whatever its class.
_CALL = nn.Module._call_impl.__code__


def in_forward() -> bool:
    """Returns whether parameters are read by a forward.

    Told by the stack, which no exception, thread or copy can make wrong.
    """
    # Compiled code is that of forwards.
    if torch.compiler.is_compiling():
        return True
    # A backward runs checkpointed parts of a forward again, perhaps without
    # the module around them.
    if torch._C._current_graph_task_id() != -1:
        return True
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == 'forward' or code is _CALL:
            return True
        frame = frame.f_back
    return False
