# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A few real images of a config, if its data is there."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from mmlapp.engine.launch import set_loader_defaults

LOADERS = 'test_dataloader', 'val_dataloader'


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
    name = next((key for key in LOADERS if cfg.get(key)), None)
    if name is None:
        return None, 'the config has no test_dataloader'
    loader = _small_loader(copy.deepcopy(cfg), name, count)
    try:
        # Datasets raise whatever they like when files are missing.
        batch = next(iter(Runner.build_dataloader(loader, seed=0)))
    except Exception as error:
        text = str(error).partition('\n')[0]
        return None, f'{name}: {type(error).__name__}: {text}'
    return batch, name


def _small_loader(cfg: Config, name: str, count: int) -> dict[str, Any]:
    set_loader_defaults(cfg)
    loader: dict[str, Any] = cfg[name]
    loader.update(
        batch_size=min(count, loader.get('batch_size', count)),
        num_workers=0,
        persistent_workers=False,
        pin_memory=False,
    )
    for key in ('prefetch_factor', 'multiprocessing_context'):
        loader.pop(key, None)
    dataset = loader['dataset']
    while isinstance(dataset, dict):
        _forbid_download(dataset)
        dataset = dataset.get('dataset')
    return loader


def _forbid_download(dataset: dict[str, Any]) -> None:
    kind = dataset.get('type')
    if isinstance(kind, str):
        scope = dataset.get('_scope_')
        with DATASETS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    if kind is not None and 'download' in inspect.signature(kind).parameters:
        dataset['download'] = False
