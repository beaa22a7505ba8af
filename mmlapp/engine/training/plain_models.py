# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Narrow weights for a model that knows nothing of pruning."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmlapp.core import PruningError

from ..models.plans import carries_plans, plans_in
from .parts import unwrap


class PlainModelHook(Hook):
    """Refuses narrow weights for the dense model of a plain config.

    MMEngine would leave most of them out and go on with random ones.
    """

    priority = 'VERY_HIGH'

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Compares a checkpoint with the model of the runner.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The loaded checkpoint.

        Raises:
            PruningError: If the model cannot become narrow.
        """
        model = unwrap(runner.model)
        weights = checkpoint.get('state_dict', checkpoint)
        if plans_in(weights) and not carries_plans(model):
            raise PruningError(
                'the checkpoint is of a narrowed model, and the config builds '
                f'a plain {type(model).__name__}. Give the config of the '
                "pruning run (model.type='mmlapp.PrunableModel') or the one "
                'that tools/deploy.py wrote'
            )
