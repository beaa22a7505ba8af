# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The teacher: which one a config means, and how it is built."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmlapp.core import PruningError
from mmlapp.core.arguments import meant
from mmlapp.core.distillation import freeze

from ..checkpoints.checked_loading import checked_loading
from ..checkpoints.reading import PREFIX
from ..checkpoints.weights import check_state_dict, load_weights
from ..config_files import check_checkpoint, read_config
from ..deployment.recipe import dense_config, is_deployed, is_prunable
from ..models.plans import KEY

DENSE = 'dense'
FORMS = (
    "'dense' for the run's own model before its pruning phase, or "
    "dict(checkpoint='dense.pth', config='dense.py')"
)
ENTRIES = 'checkpoint', 'config'


@dataclass(frozen=True)
class TeacherSource:
    """Where a teacher comes from.

    Args:
        checkpoint (str): Path or address of its weights; ``dense`` for the
            run's own model before the pruning phase.
        config (str or Mapping, optional): Path of its config, or the config.
            Defaults to None: that of the run.
    """

    checkpoint: str
    config: str | Path | Mapping[str, Any] | None = None

    @property
    def is_dense(self) -> bool:
        """Whether it is the run's own model."""
        return self.checkpoint == DENSE and self.config is None

    @classmethod
    def read(cls, teacher: Any) -> TeacherSource:
        """Reads the argument of a config.

        Args:
            teacher (str or Mapping): See :data:`FORMS`.

        Raises:
            PruningError: If it has another form.
        """
        if teacher == DENSE:
            return cls(DENSE)
        if not isinstance(teacher, Mapping):
            raise PruningError(f'teacher={teacher!r}: expected {FORMS}')
        for key in teacher:
            if key not in ENTRIES:
                hint = meant(key, ENTRIES)
                raise PruningError(
                    f'teacher has an entry {key!r}; {hint}'
                    f'{" " if hint else ""}expected {FORMS}'
                )
        path, config = teacher.get('checkpoint'), teacher.get('config')
        if not isinstance(path, (str, Path)) or not str(path):
            raise PruningError(
                f'teacher checkpoint={path!r}: a teacher without weights '
                f'teaches noise; expected {FORMS}'
            )
        if not isinstance(config, (str, Path, Mapping, type(None))):
            raise PruningError(
                f'teacher config={config!r}: expected the path of a config'
            )
        return cls(str(path), config)


@dataclass(frozen=True)
class Teacher:
    """A frozen model, and what is known of it.

    Args:
        model (nn.Module): The model, in evaluation mode.
        meta (Mapping): Of its checkpoint, such as ``dataset_meta``.
        digest (str): Of its weights.
    """

    model: nn.Module
    meta: Mapping[str, Any]
    digest: str


def read_teacher(source: TeacherSource, cfg: Config) -> Teacher:
    """Builds a teacher and loads its weights, all of them.

    Args:
        source (TeacherSource): Where it comes from.
        cfg (Config): Of the run; its model is the teacher's where the source
            has no config.

    Returns:
        Teacher: On the CPU.

    Raises:
        PruningError: If there is no such file, or the weights do not fit.
    """
    said = 'teacher checkpoint'
    check_checkpoint(said, source.checkpoint)
    with checked_loading():
        data = CheckpointLoader.load_checkpoint(source.checkpoint, 'cpu')
    # Of a checkpoint of MMEngine, or a bare state dict.
    weights = data.get('state_dict', data)
    check_state_dict(weights, f'{said}={source.checkpoint!r}')
    model = _build(config_of(source, cfg), cfg, weights)
    _load(model, weights, f'{said}={source.checkpoint!r}')
    meta = data.get('meta')
    # In a file of others it may be anything.
    meta = meta if isinstance(meta, Mapping) else {}
    return frozen_teacher(model, meta)


def config_of(source: TeacherSource, cfg: Config) -> Config:
    """Returns the config of a teacher, with a model.

    Args:
        source (TeacherSource): Where the teacher comes from.
        cfg (Config): Of the run.

    Raises:
        PruningError: If there is no such file, or no model in it.
    """
    if source.config is None:
        found = cfg
    elif isinstance(source.config, Mapping):
        found = Config(dict(source.config))
    else:
        found = read_config(source.config)
    if not isinstance(found.get('model'), Mapping):
        said = 'the run' if source.config is None else repr(source.config)
        raise PruningError(
            f'teacher config: the config of {said} has no model=dict(...). '
            'Give the config that the teacher was trained with'
        )
    return found


def frozen_teacher(model: nn.Module, meta: Mapping[str, Any]) -> Teacher:
    """Freezes a model whose weights are those of a teacher.

    Args:
        model (nn.Module): The model, changed in place.
        meta (Mapping): Of its checkpoint.
    """
    return Teacher(freeze(model), meta, digest_of(model.state_dict()))


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """Returns a text that other weights do not have.

    Args:
        weights (Mapping[str, Tensor]): By name.
    """
    found = hashlib.sha256()
    for name, value in weights.items():
        # With name and shape: equal bytes may be other tensors.
        found.update(f'{name} {tuple(value.shape)} {value.dtype}'.encode())
        # As bytes, for NumPy has no bfloat16.
        flat = value.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _load(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Loads all weights; of another width they may have lost their plan."""
    own = model.state_dict()
    try:
        load_weights(model, weights, where)
    except PruningError as error:
        text = str(error) if where in str(error) else f'{where}: {error}'
        if any(own[n].shape != weights[n].shape for n in own.keys() & weights):
            text += (
                '. Where they are narrow, they lost the plan that '
                'mmlapp.PruningHook saved with them. Give the checkpoint as '
                'the run wrote it, or config and weights of tools/deploy.py'
            )
        raise PruningError(text) from error


def _build(
    found: Config, cfg: Config, weights: Mapping[str, Any]
) -> nn.Module:
    """Builds the model that the weights belong to."""
    # Narrow, with its plan, or with masks.
    pruned = KEY in weights or any(n.startswith(PREFIX) for n in weights)
    ours = is_prunable(found.model) or is_deployed(found.model)
    if pruned and not ours:
        raise PruningError(
            'teacher checkpoint: its weights are of a pruned model, and '
            f'teacher config has a {found.model["type"]}. Give the config of '
            'the run that pruned it, or the one that tools/deploy.py wrote'
        )
    # Dense weights for one of our types: those of the user's own model.
    dense = ours and not pruned
    model = dense_config(found) if dense else copy.deepcopy(found.model)
    for config in (found, cfg):
        # Where a config says nothing of it, what the run does.
        if config.get('data_preprocessor') is not None:
            model.setdefault('data_preprocessor', config.data_preprocessor)
    scope = found.get('default_scope') or cfg.get('default_scope')
    with DefaultScope.overwrite_default_scope(scope):
        built: nn.Module = MODELS.build(model)
    return built
