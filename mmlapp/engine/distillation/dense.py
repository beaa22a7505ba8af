# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""``teacher='dense'``: the run's own model before its pruning phase.

Its weights lie in a file of the work folder, not in the checkpoints: a
resumed run reads them there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmlapp.core import PruningError
from mmlapp.core.files import replace_file
from mmlapp.core.narrowing.narrow import detach
from mmlapp.core.progress import Phase

from ..checkpoints.pretrained import KINDS
from ..checkpoints.reading import PREFIX, load_checkpoint
from ..checkpoints.weights import load_weights
from ..training.parts import own_pruner, unwrap
from ..training.pruning_hook import PruningHook
from .teacher import Teacher, frozen_teacher

FILE = 'dense_teacher.pth'
REMEDY = (
    "Give teacher=dict(checkpoint='dense.pth') instead, with a checkpoint of "
    'the dense model'
)


def check_dense(runner: Runner, loaded: bool) -> int:
    """Refuses a run that has no trained dense model to learn from.

    Args:
        runner (Runner): The runner, before training begins.
        loaded (bool): Whether weights of a whole model were loaded.

    Returns:
        int: The iteration at which its model becomes the teacher.

    Raises:
        PruningError: With the reason.
    """
    hook = next((h for h in runner.hooks if isinstance(h, PruningHook)), None)
    if hook is None:
        raise _refused(
            'the run has no mmlapp.PruningHook, and so no dense model before '
            'its phase'
        )
    pruner = own_pruner(runner.model)
    if pruner is None or pruner.phase == Phase.FINISHED:
        raise _refused(
            'the loaded model is pruned already, and its dense one is not '
            'known'
        )
    # A run with a teacher noted its digest, and does not come here.
    if runner._resume and pruner.phase == Phase.PRUNING:
        raise _refused(
            'the pruning phase of the checkpoint has begun without a teacher'
        )
    # Until then the run trains the dense model itself.
    begin = int(hook.length.begin_iters)
    if not (begin or loaded or _is_pretrained(runner)):
        raise _refused(
            'the pruning phase begins at iteration 0, and the model has only '
            'random weights by then',
            'Set begin_iters of mmlapp.PruningHook to train it before, or '
            'name trained weights in load_from',
        )
    return begin


def _refused(reason: str, remedy: str = REMEDY) -> PruningError:
    return PruningError(f"teacher='dense': {reason}. {remedy}")


def _is_pretrained(runner: Runner) -> bool:
    """Whether the whole model has its weights from ``init_cfg``."""
    config = getattr(unwrap(runner.model), 'init_cfg', None)
    return isinstance(config, Mapping) and config.get('type') in KINDS


def keep_dense(runner: Runner) -> Teacher:
    """Makes the model of a run, as it is now, its teacher, and saves it.

    Args:
        runner (Runner): The runner, before its pruning phase; all processes
            must call this.
    """
    model = unwrap(runner.model)
    weights = {
        name: value.detach().cpu()
        for name, value in model.state_dict().items()
        # Without the pruner: before its phase all masks are one.
        if not name.startswith(PREFIX)
    }
    # Running statistics may differ between processes.
    shared: list[Any] = [weights]
    dist.broadcast_object_list(shared)
    if dist.is_main_process():
        _save(Path(runner.work_dir, FILE), shared[0])
    # Nobody goes on to a checkpoint that needs the file before it is there.
    dist.barrier()
    return _teacher(runner, shared[0], 'the dense model of the run')


def _save(path: Path, weights: Mapping[str, Tensor]) -> None:
    data = {'state_dict': weights, 'meta': {}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: torch.save(data, temporary))
    except (OSError, RuntimeError) as error:  # torch raises the second
        raise _refused(
            f'{path} could not be written ({error}), and without it the run '
            'cannot be resumed. Make room'
        ) from error


def find_dense(runner: Runner) -> Teacher:
    """Reads what :func:`keep_dense` saved.

    Args:
        runner (Runner): The runner of a resumed run.

    Raises:
        PruningError: If the file is gone or damaged.
    """
    places = list(_places(runner))
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        raise _refused(
            f'{places[0]} is gone, the dense model that the run of the '
            'checkpoint learned from. Copy it back beside the checkpoint'
        )
    weights = load_checkpoint(path).get('state_dict')
    return _teacher(runner, weights, f'teacher checkpoint={str(path)!r}')


def _places(runner: Runner) -> Iterator[Path]:
    """Where the file may lie: beside the checkpoint, or in the work folder."""
    if runner._load_from:
        yield Path(runner._load_from).parent / FILE
    yield Path(runner.work_dir, FILE)


def _teacher(runner: Runner, weights: Any, where: str) -> Teacher:
    """Builds the model of the run once more, without masks."""
    config = copy.deepcopy(runner.cfg.get('model'))
    if not isinstance(config, Mapping):
        raise _refused(
            'the run was given a model and no config of it, so that it '
            'cannot be built once more'
        )
    if runner.cfg.get('data_preprocessor') is not None:
        config.setdefault('data_preprocessor', runner.cfg.data_preprocessor)
    # Built with masks, as the config says, and freed of them.
    model: nn.Module = detach(MODELS.build(config))
    # A run may have cast its model as a whole.
    model.to(next(unwrap(runner.model).parameters()).dtype)
    load_weights(model, weights, where)
    return frozen_teacher(model, {})
