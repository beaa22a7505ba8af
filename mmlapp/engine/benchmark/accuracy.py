# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of networks on the test data of a config, on any backend."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import EVALUATOR
from torch import Tensor, nn

from mmlapp.core import PruningError

from ..deployment.real_data import LOADERS, loader_name, own_loader
from ..export.network import Network
from ..latency.backends import Run
from ..models.default_scope import default_scope_of
from .feeding import Feeding
from .rows import REFERENCE

REMEDY = 'Leave accuracy out'


class Judge:
    """What a config measures on its test data, of one network after another.

    Args:
        cfg (Config): The config.
        trained (Collection[str]): Names of the networks whose weights are
            of a training; others are not judged.

    Raises:
        PruningError: If the config evaluates nothing, its data is not there,
            or no network is trained.

    Attributes:
        notes (list[str]): What was measured, and what could not be.
    """

    def __init__(self, cfg: Config, trained: Collection[str]) -> None:
        if not trained:
            raise PruningError(
                'accuracy: random weights have none. Give a checkpoint, or '
                'that of the dense model with --dense'
            )
        name = loader_name(cfg)
        self._evaluator = cfg.get(LOADERS[name]) if name else None
        if name is None or not self._evaluator:
            raise PruningError(
                'accuracy: the config has no test_dataloader with a '
                f'test_evaluator. {REMEDY}'
            )
        if not isinstance(self._evaluator, (dict, list, tuple)):
            raise PruningError(
                f'accuracy: the config has {LOADERS[name]}='
                f'{self._evaluator!r:.80}; expected a dictionary, or a list '
                f'of them. {REMEDY}'
            )
        self._trained, self._name = trained, name
        self._cfg = cfg
        with default_scope_of(cfg):
            self._data = _loader(cfg, name)
        self.notes: list[str] = []

    def __call__(
        self, name: str, network: nn.Module, backend: str, run: Run, x: Tensor
    ) -> dict[str, float] | None:
        """Returns the metrics of a network; None where there are none.

        Args:
            name (str): Of the network.
            network (nn.Module): A :class:`Network`.
            backend (str): What runs it.
            run (Callable): Runs it there, on ``x``.
            x (Tensor): Images that are read at each run.
        """
        if name not in self._trained or not isinstance(network, Network):
            return None
        try:
            if backend == REFERENCE:
                return self._metrics(network.model)
            # What runs elsewhere takes tensors alone: its model does all the
            # rest, as preprocessing and predictions.
            with Feeding(network, run, x) as model:
                return self._metrics(model)
        except PruningError as error:
            self.notes.append(f'no accuracy of {name} on {backend}: {error}')
            return None

    @torch.no_grad()
    def _metrics(self, model: Any) -> dict[str, float]:
        with default_scope_of(self._cfg):
            # A new one for each network: a metric keeps what it has seen of
            # one that failed.
            evaluator = _evaluator(self._evaluator)
            dataset = self._data.dataset
            evaluator.dataset_meta = getattr(dataset, 'metainfo', None)
            for batch in self._data:
                # As MMEngine's test loop does: with the model's own
                # preprocessing.
                evaluator.process(model.test_step(batch), batch)
            found = evaluator.evaluate(len(dataset))
        metrics = {k: float(v) for k, v in found.items() if _is_number(v)}
        first = next(iter(metrics), 'nothing')
        text = f'accuracy: {first} of {len(dataset)} images of {self._name}'
        if text not in self.notes:
            self.notes.append(text)
        return metrics


def _loader(cfg: Config, name: str) -> Any:
    """The test data, of which the first batch is there."""
    try:
        loader = own_loader(cfg, name)
        next(iter(loader))
    except Exception as error:  # whatever a data set raises
        text = str(error).partition('\n')[0]
        raise PruningError(
            f'accuracy: {name} cannot be read ({type(error).__name__}: '
            f'{text}). Put the data there, or leave accuracy out'
        ) from error
    return loader


def _evaluator(config: Any) -> Any:
    """As the Runner builds it: of a dictionary, or a list of metrics."""
    # The type below would be written into the user's config.
    config = copy.deepcopy(config)
    if not isinstance(config, dict) or 'metrics' not in config:
        config = {'metrics': config}
    config.setdefault('type', 'Evaluator')
    return EVALUATOR.build(config)


def _is_number(value: Any) -> bool:
    single = isinstance(value, Tensor) and value.numel() == 1
    return single or isinstance(value, (int, float))
