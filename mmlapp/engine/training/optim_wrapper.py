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
from mmengine.runner import Runner
from torch import nn

from mmlapp.core import Pruner, PruningError
from mmlapp.core.progress import Phase
from mmlapp.registry import OPTIM_WRAPPERS

from ..models.hook_reminder import NO_HOOK, expect_hook
from .parts import unwrap


def attend(runner: Runner) -> None:
    """Tells the optimizer wrapper and the model that a hook is there.

    Args:
        runner (Runner): The runner of a training or test process.
    """
    wrapper = getattr(runner, 'optim_wrapper', None)
    if isinstance(wrapper, _PrunerStep):
        wrapper.attended = True
    expect_hook(unwrap(runner.model), False)


class _PrunerStep:
    """Steps the pruner right after the optimizer's own step.

    Attributes:
        pruner (Pruner, optional): Of the model; :class:`PruningHook` puts it
            here.
        attended (bool): Whether the run has such a hook.
    """

    pruner: Pruner | None = None
    attended = False

    def optim_context(self, model: nn.Module) -> Any:
        """Refuses a run without a hook, in which nothing would be pruned.

        Args:
            model (nn.Module): The model, before the forward of a step.

        Returns:
            The context of the wrapper.

        Raises:
            PruningError: If there is neither a hook nor a pruner.
        """
        if not self.attended and self.pruner is None:
            raise PruningError(
                f'optim_wrapper={type(self).__name__} has nothing to step: '
                f'{NO_HOOK}. For a run that does not prune use '
                "type='OptimWrapper'"
            )
        return super().optim_context(model)  # type: ignore[misc]

    def step(self, **kwargs: Any) -> None:
        """Updates the parameters, then the pruner.

        Args:
            **kwargs (Any): Passed on to the optimizer's step.
        """
        pruner = self.pruner
        # After the phase nothing is left to decide; before it pruner.step()
        # would warn that it has not begun.
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
        # As the constructor that refuses goes on where it does not; a scaler
        # that is off scales by one.
        kwargs.pop('use_fsdp', None)
        OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
        if isinstance(dtype, str):
            dtype = getattr(torch, dtype, dtype)
        if dtype not in (None, torch.bfloat16):
            raise PruningError(
                f'dtype={dtype}: on the CPU mixed precision is bfloat16. '
                'Leave dtype out'
            )
        self.cast_dtype = torch.bfloat16

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a state from a run with or without loss scaling.

        Args:
            state_dict (dict): Of this wrapper or of ``OptimWrapper``.
        """
        # A scaler that is off has no state, which one that is on refuses: it
        # begins anew.
        if not state_dict.get('loss_scaler'):
            state_dict = {**state_dict}
            state_dict.pop('loss_scaler', None)
        super().load_state_dict(state_dict)


def _has_accelerator() -> bool:
    # What AmpOptimWrapper asserts in its constructor.
    return any(
        (
            is_cuda_available(),
            is_npu_available(),
            is_mlu_available(),
            is_musa_available(),
        )
    )
