# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Noise in training, which only the right random numbers repeat."""

from mmengine.runner import Runner
from torch import nn


def drop_inputs_of_head(runner: Runner) -> None:
    """Drops a fifth of what the head of a classifier reads."""
    runner.model.head.register_forward_pre_hook(
        lambda module, args: (
            tuple(
                nn.functional.dropout(x, 0.2, module.training) for x in args[0]
            ),
            *args[1:],
        )
    )
