# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing (arXiv 1604.06174), of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..tracer import Tracer
from .registry import register_function


def save_inputs(
    tracer: Tracer, arguments: Mapping[str, Any], out: Any
) -> None:
    """It keeps its arguments for the backward and returns nothing of them."""


register_function('_NoopSaveInputs', rule=save_inputs)
