# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Numbers of our own lie on the CPU, wherever new tensors are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def on_cpu() -> Iterator[None]:
    """Lets tensors be made on the CPU where nobody says another device.

    Somebody may have called ``torch.set_default_device('cuda')``. Indices and
    counts that are compared and looked at would lie there then, between
    others that are made on the CPU, and each look would wait for the device.

    Examples:
        >>> with torch.device('meta'), on_cpu():
        ...     torch.zeros(2).device.type
        'cpu'
    """
    # A context makes every operator slower: not where it changes nothing.
    if torch.empty(0).device.type == 'cpu':
        yield
        return
    with torch.device('cpu'):
        yield
