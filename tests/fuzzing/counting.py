# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a network costs, by counters that know nothing of pruning."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mmlapp.core import ChannelPlan

from .cases import Case


def macs(model: nn.Module, x: Any) -> float:
    """Multiply-adds as torch counts them below the dispatcher."""
    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
                lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
            )
        },
    )
    # Views of parameters need gradients that have no function here, which the
    # counter does not expect.
    model = copy.deepcopy(model).requires_grad_(False)
    # Torch's counter does not know the kernels of the fused path.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with counter, torch.no_grad():
            model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() / 2


def check_costs(
    case: Case, plan: ChannelPlan, model: nn.Module, what: str
) -> None:
    """Counts what is left, in another way than the plan did."""
    counted = {'parameters': sum(p.numel() for p in model.parameters())}
    # A sum over one index is no product for torch.einsum.
    one = any(len(kept.index) == 1 for kept in plan.groups.values())
    if not (one and 'einsum' in case.network.source):
        counted['flops'] = macs(model, case.example)
    for name, number in counted.items():
        noted = plan.costs[name]['pruned']
        assert abs(noted - number) <= 1e-6 * number, (
            f'{what}: the plan says {noted} {name}, there are {number}'
        )
