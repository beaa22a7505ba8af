# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Optimizer wrappers that also step the thresholds."""

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

from mmlapp.core import LAPP, PruningError
from mmlapp.core.pruner_state import PRUNING
from mmlapp.registry import OPTIM_WRAPPERS


class _ThresholdStep:
    """Steps the thresholds right after the optimizer's own step.

    Attributes:
        lapp (LAPP, optional): The thresholds; :class:`PruningHook` puts them
            here.
    """

    lapp: LAPP | None = None

    def step(self, **kwargs: Any) -> None:
        """Updates the parameters, then the thresholds.

        Args:
            **kwargs (Any): Passed on to the optimizer's step.
        """
        lapp = self.lapp
        if lapp is None or lapp.phase != PRUNING:
            super().step(**kwargs)  # type: ignore[misc]
            return
        scaler = getattr(self, 'loss_scaler', None)
        # Read before the scaler updates it: gradients carry this factor.
        scale = 1.0 if scaler is None else scaler.get_scale()
        super().step(**kwargs)  # type: ignore[misc]
        lapp.step(scale)


@OPTIM_WRAPPERS.register_module()
class PruningOptimWrapper(_ThresholdStep, OptimWrapper):
    """:class:`mmengine.optim.OptimWrapper` that steps the thresholds too.

    Thresholds are no parameters of the optimizer: their step, momentum and
    scale are their own, and gradient accumulation counts for them as well.
    Takes the arguments of ``OptimWrapper``.
    """


@OPTIM_WRAPPERS.register_module()
class AmpPruningOptimWrapper(_ThresholdStep, AmpOptimWrapper):
    """:class:`mmengine.optim.AmpOptimWrapper` that steps the thresholds too.

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
