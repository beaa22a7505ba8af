# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What pruning keeps in a network: on its device and in its state dict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

DENSE, PRUNING, FINISHED = 0, 1, 2


class ThresholdState(nn.Module):
    """Thresholds, masks and progress as buffers.

    Args:
        sizes (Sequence[int]): Number of channels of every group.
        state (Tensor): What the controller remembers.
    """

    threshold: Tensor
    gate: Tensor
    mask: Tensor
    slope: Tensor
    group: Tensor
    scores: Tensor
    state: Tensor

    def __init__(self, sizes: Sequence[int], state: Tensor) -> None:
        super().__init__()
        self.active, self.complete = False, False
        self.total, count = sum(sizes), len(sizes)
        owner = torch.arange(count).repeat_interleave(torch.tensor(sizes))
        self.register_buffer('group', torch.cat([owner, owner[:1]]), False)
        self.register_buffer('threshold', torch.zeros(count))
        # A leaf for the gradient of the mask; its values mean nothing.
        self.register_buffer('gate', torch.zeros(self.total + 1), False)
        ones = torch.ones(self.total + 1, dtype=torch.bool)
        self.register_buffer('mask', ones)
        self.register_buffer('slope', torch.zeros(self.total + 1))
        self.register_buffer('scores', torch.zeros(self.total))
        self.register_buffer('state', state)
        # Phase, steps done, steps of the phase, final target. Read several
        # times in each step: no buffer, so that it stays on the CPU.
        self.progress = torch.zeros(4, dtype=torch.float64)
        self._learn()

    def forward(self, x: Tensor) -> Tensor:
        """Returns its input: an ``nn.Sequential`` runs its new child too."""
        return x

    @property
    def phase(self) -> int:
        """One of DENSE, PRUNING, FINISHED."""
        return int(self.progress[0])

    def take_over(self, other: ThresholdState) -> None:
        """Makes thresholds, masks and progress those of another one.

        Args:
            other (ThresholdState): Of a copy of the same network.
        """
        for mine, theirs in zip(self.buffers(), other.buffers(), strict=True):
            mine.data.copy_(theirs.data)
        self.progress.copy_(other.progress)
        self.active = other.active

    def _learn(self) -> None:
        self.threshold.requires_grad_()
        self.gate.requires_grad_()

    def _forget(self) -> None:
        self.threshold.grad = self.gate.grad = None

    def _apply(self, fn: Any, recurse: bool = True) -> ThresholdState:
        """Follows the network to its device; types stay as they are.

        Counts and FLOPs need their range, and a buffer that learns must be
        a leaf again after it was moved.
        """
        before = {
            (module, name): value
            for module in self.modules()
            for name, value in module._buffers.items()
        }
        super()._apply(fn, recurse)
        for (module, name), value in before.items():
            moved = module._buffers[name]
            if moved is None or value is None or moved is value:
                continue
            if value.device.type != 'meta':
                moved = value.detach().to(moved.device)
            module._buffers[name] = moved.detach()
        self._learn()
        return self

    def _save_to_state_dict(
        self, destination: Any, prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f'{prefix}progress'] = self.progress

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        key = f'{prefix}progress'
        super()._load_from_state_dict(
            {k: v for k, v in state_dict.items() if k != key},
            prefix,
            local_metadata,
            strict,
            missing_keys,
            *args,
        )
        if key in state_dict:
            self.progress.copy_(state_dict[key])
        elif strict:
            missing_keys.append(key)
        if f'{prefix}mask' in state_dict:
            self.active = True
