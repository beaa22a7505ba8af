# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A few real images of a config, if its data is there."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmlapp.engine.launch import set_loader_defaults

# What a config evaluates, and by what.
LOADERS = {
    'test_dataloader': 'test_evaluator',
    'val_dataloader': 'val_evaluator',
}


def real_batch(cfg: Config, count: int = 4) -> tuple[Any, str]:
    """Loads the first images that a config evaluates.

    Nothing is downloaded.

    Args:
        cfg (Config): The config; not changed.
        count (int): Number of images at most. Defaults to 4.

    Returns:
        tuple[Any, str]: The batch and the name of its loader, or None and
        the reason why there is none.
    """
    name = loader_name(cfg)
    if name is None:
        return None, 'the config has no test_dataloader'
    try:
        # Datasets raise whatever they like when files are missing.
        batch = next(iter(own_loader(cfg, name, count)))
    except Exception as error:
        text = str(error).partition('\n')[0]
        return None, f'{name}: {type(error).__name__}: {text}'
    return batch, name


def loader_name(cfg: Config) -> str | None:
    """Returns the name of the data loader that a config evaluates, if any.

    Args:
        cfg (Config): The config.
    """
    return next((key for key in LOADERS if cfg.get(key)), None)


def own_loader(cfg: Config, name: str, most: int | None = None) -> DataLoader:
    """Builds a data loader of a config, without processes of its own.

    Args:
        cfg (Config): The config; not changed.
        name (str): Of the loader.
        most (int, optional): Images of a batch at most. Defaults to None: as
            the config has it.

    Raises:
        Exception: Whatever the data set raises if its files are missing;
            nothing is downloaded.
    """
    cfg = copy.deepcopy(cfg)
    set_loader_defaults(cfg)
    loader: dict[str, Any] = cfg[name]
    if most is not None:
        loader.update(batch_size=min(most, loader.get('batch_size', most)))
    loader.update(
        num_workers=0,
        persistent_workers=False,
        pin_memory=False,
    )
    # torch refuses these of a loader without processes.
    for key in ('prefetch_factor', 'multiprocessing_context'):
        loader.pop(key, None)
    _forbid_download(loader['dataset'])
    return Runner.build_dataloader(loader, seed=0)


def _forbid_download(value: Any, scope: str | None = None) -> None:
    """Turns ``download`` off wherever data sets stand inside of others.

    Args:
        value (Any): A config or a part of it, changed in place.
        scope (str, optional): Of the data set around it, which holds for all
            inside. Defaults to None: the current one.
    """
    if isinstance(value, (list, tuple)):
        for inner in value:
            _forbid_download(inner, scope)
    if not isinstance(value, dict):
        return
    scope = value.get('_scope_', scope)
    for inner in value.values():
        _forbid_download(inner, scope)
    # One whose class is not known is asked by its own entry alone.
    if 'download' in value or _can_download(value.get('type'), scope):
        value['download'] = False


def _can_download(kind: Any, scope: str | None) -> bool:
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    # A constructor with **kwargs passes them on to the class above it.
    for step in inspect.getmro(kind) if isinstance(kind, type) else [kind]:
        parameters = _parameters(step)
        if 'download' in parameters:
            return True
        if all(p.kind != p.VAR_KEYWORD for p in parameters.values()):
            return False
    return False


def _parameters(kind: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind).parameters if callable(kind) else {}
