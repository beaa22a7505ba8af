# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint has beside weights: of this package, of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.runner import Runner
from torch.optim import Optimizer

from mmlapp.core import PruningError

from .optimizers import check_optimizer


def check_version(key: str, entry: Any, version: int) -> None:
    """Refuses an entry of a checkpoint that another release wrote.

    Args:
        key (str): Its name in the checkpoint.
        entry (Any): What is there.
        version (int): The version that this release reads.

    Raises:
        PruningError: With both versions.
    """
    found = entry.get('version') if isinstance(entry, Mapping) else None
    if found != version:
        raise PruningError(
            f'the checkpoint has {key} of version {found!r}: this release '
            f'reads version {version}. Use the release that wrote it'
        )


def check_resumable(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Refuses to go on from weights alone, as published ones are.

    So is the state of an optimizer of another class. Warns where it is all
    that is missing.

    Args:
        runner (Runner): The runner, while it loads.
        checkpoint (Mapping): What it has read.

    Raises:
        PruningError: With what works.
    """
    if not runner._resume:
        return
    # A runner saves it with every checkpoint; publishing drops it.
    if 'message_hub' not in checkpoint:
        raise PruningError(
            'resume: the checkpoint has weights, but not the state of a '
            'training (it was published or deployed). Name it in load_from '
            'without resume, or resume from a checkpoint of the run itself'
        )
    if 'optimizer' not in checkpoint:
        runner.logger.warning(
            'resume: the checkpoint has no state of the optimizer, as those '
            'of save_best and save_optimizer=False: the weights go on, '
            'momentum begins anew. A checkpoint of an interval has it'
        )
        return
    wrapper = getattr(runner, 'optim_wrapper', None)
    # An OptimWrapperDict has several.
    optimizer = getattr(wrapper, 'optimizer', None)
    if isinstance(optimizer, Optimizer):
        check_optimizer(optimizer, checkpoint)
