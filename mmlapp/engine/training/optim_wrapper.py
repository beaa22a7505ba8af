# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Optimizer wrappers that also step the pruner."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.device import (
    is_cuda_available,
    is_mlu_available,
    is_musa_available,
    is_npu_available,
)
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from mmlapp.core import Pruner, PruningError
from mmlapp.core.progress import Phase
from mmlapp.registry import OPTIM_WRAPPERS


class _PrunerStep:
    """Steps the pruner right after the optimizer's own step.

    Attributes:
        pruner (Pruner, optional): Of the model; :class:`PruningHook` puts it
            here.
    """

    pruner: Pruner | None = None

    def step(self, **kwargs: Any) -> None:
        """Updates the parameters, then the pruner.

        Args:
            **kwargs (Any): Passed on to the optimizer's step.
        """
        pruner = self.pruner
        if pruner is None or pruner.phase != Phase.PRUNING:
            super().step(**kwargs)  # type: ignore[misc]
            return
        scaler = getattr(self, 'loss_scaler', None)
        # Read before the scaler updates it: gradients carry this factor.
        scale = 1.0 if scaler is None else scaler.get_scale()
        super().step(**kwargs)  # type: ignore[misc]
        pruner.step(scale)


@OPTIM_WRAPPERS.register_module()
class PruningOptimWrapper(_PrunerStep, OptimWrapper):
    """:class:`mmengine.optim.OptimWrapper` that steps the pruner too.

    What a method learns is no parameter of the optimizer: its step is its
    own, and gradient accumulation counts for it as well.
    Takes the arguments of ``OptimWrapper``.
    """


@OPTIM_WRAPPERS.register_module()
class AmpPruningOptimWrapper(_PrunerStep, AmpOptimWrapper):
    """:class:`mmengine.optim.AmpOptimWrapper` that steps the pruner too.

    Works on the CPU as well, where MMEngine's refuses, with bfloat16 and
    without loss scaling.

    Args:
        loss_scale (str, float or dict): As in ``AmpOptimWrapper``.
            Defaults to ``'dynamic'``.
        dtype (str or torch.dtype, optional): Type that operators are cast
            to. Defaults to None: float16, on the CPU bfloat16.
        **kwargs (Any): Other arguments of ``AmpOptimWrapper``.
    """

    def __init__(
        self,
        loss_scale: str | float | dict[str, Any] = 'dynamic',
        dtype: str | torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        if _has_accelerator():
            super().__init__(loss_scale=loss_scale, dtype=dtype, **kwargs)
            return
        kwargs.pop('use_fsdp', None)
        OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
        if isinstance(dtype, str):
            dtype = getattr(torch, dtype)
        if dtype not in (None, torch.bfloat16):
            raise PruningError(
                f'dtype={dtype}: on the CPU mixed precision is bfloat16'
            )
        self.cast_dtype = torch.bfloat16


def _has_accelerator() -> bool:
    return any(
        (
            is_cuda_available(),
            is_npu_available(),
            is_mlu_available(),
            is_musa_available(),
        )
    )
