# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The networks of a config and a checkpoint: dense, masked, slim."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmlapp.core import PruningError, merge_bypasses
from mmlapp.core.cost import Latency

from ..checkpoints.reading import load_checkpoint, read_trained
from ..checkpoints.weights import load_weights
from ..deployment.masked import build_model, masked_model, slim_model
from ..deployment.real_data import real_batch
from ..deployment.recipe import (
    counted_shape,
    is_deployed,
    is_prunable,
)
from ..export.network import Network
from ..export.trained import dense_model
from ..latency.part import one_image
from ..models.default_scope import default_scope_of
from ..models.inputs import InputShape
from ..models.prunable import INPUT_SHAPE
from .rows import REFERENCE, Candidate, Inputs

IMAGES = 32  # real ones to compare classes on


@dataclass(frozen=True)
class Prediction:
    """The latency that a budget counted.

    Args:
        ratio (float): Of the slim network over the dense one.
        setting (dict): What its table was measured for.
    """

    ratio: float
    setting: dict[str, Any]


@dataclass(frozen=True)
class Networks:
    """What is measured.

    Args:
        candidates (list[Candidate]): The dense network first.
        inputs (Inputs): Images.
        notes (list[str]): What to know of both.
        prediction (Prediction, optional): If latency was a cost.
    """

    candidates: list[Candidate]
    inputs: Inputs
    notes: list[str]
    prediction: Prediction | None = None


def networks_of(
    cfg: Config,
    checkpoint: str | Path | None = None,
    dense: str | Path | None = None,
    input_shape: InputShape | None = None,
    batch: int = 1,
) -> Networks:
    """Builds the networks of a config and a checkpoint.

    Args:
        cfg (Config): Of a pruning run, a deployed model, or any other.
        checkpoint (str or Path, optional): Of the run from after its phase,
            or of the deployed model. Defaults to None, for other models.
        dense (str or Path, optional): Weights of the dense model, which
            decide on no time. Defaults to None: random ones.
        input_shape (Sequence[int], optional): Of an image. Defaults to None:
            that of a run's budgets, which the config of its deployed model
            has too, or that of the test data of other models.
        batch (int): Images at once. Defaults to 1.

    Raises:
        PruningError: If config and checkpoints do not belong together.
    """
    notes: list[str] = []
    with default_scope_of(cfg):
        first = _Model('dense', _dense(cfg, dense, notes))
        real = _real_images(cfg, first.model)
        shape = (
            input_shape
            or counted_shape(cfg.model)
            or (INPUT_SHAPE if real[0] is None else tuple(real[0].shape[1:]))
        )
        others, prediction = _others(cfg, checkpoint, shape, notes)
        # The dense network tells which outputs are tensors; all others have
        # the same.
        network = Network.find(first.model, one_image(first.model, shape))
        candidates = [
            Candidate(m.name, network.of(m.model), m.like, m.backends)
            for m in (first, *others)
        ]
        inputs = _inputs(first.model, real, shape, batch, notes)
    return Networks(candidates, inputs, notes, prediction)


class _Model(NamedTuple):
    """A model whose outputs are not only tensors yet, see Candidate."""

    name: str
    model: nn.Module
    like: str | None = None
    backends: tuple[str, ...] | None = None


def _others(
    cfg: Config,
    checkpoint: str | Path | None,
    shape: InputShape,
    notes: list[str],
) -> tuple[list[_Model], Prediction | None]:
    """Models beside the dense one, and what a budget counted of them."""
    if is_prunable(cfg.model):
        masked, slim = _of_run(cfg, checkpoint, notes)
        size = list(one_image(masked, shape).shape[1:])
        models = [
            # A means of training: no other backend runs it.
            _Model('masked', masked, backends=(REFERENCE,)),
            _Model('slim', slim, like='masked'),
        ]
        return models, _prediction(masked, size, notes)
    if is_deployed(cfg.model):
        return [_Model('slim', _deployed(cfg, checkpoint))], None
    if checkpoint is not None:
        raise PruningError(
            f'checkpoint={str(checkpoint)!r}: the model of the config is '
            'neither prunable nor deployed. Give its weights with --dense'
        )
    return [], None


def _dense(
    cfg: Config, checkpoint: str | Path | None, notes: list[str]
) -> nn.Module:
    model = dense_model(cfg)
    if checkpoint is None:
        notes.append('the dense network has random weights')
        return model
    _load(model, 'dense', checkpoint)
    return model


def _of_run(
    cfg: Config, checkpoint: str | Path | None, notes: list[str]
) -> tuple[Any, nn.Module]:
    """Masked and slim network of a run, as a deployment makes them."""
    if checkpoint is None:
        raise PruningError(
            'checkpoint: the config is that of a pruning run; give a '
            'checkpoint from after its pruning phase'
        )
    trained = read_trained(checkpoint)
    masked = masked_model(cfg, trained)
    # Another copy: narrowing changes its model in place.
    slim: nn.Module = slim_model(cfg, trained, copy.deepcopy(masked))
    if merge_bypasses(slim, free=True):
        notes.append('bypasses that budgets do not count are merged')
    return masked, slim


def _deployed(cfg: Config, checkpoint: str | Path | None) -> nn.Module:
    model: nn.Module = build_model(cfg)
    if checkpoint is not None:
        _load(model, 'checkpoint', checkpoint)
    return model


def _load(model: nn.Module, argument: str, path: str | Path) -> None:
    weights = load_checkpoint(path).get('state_dict')
    load_weights(model, weights, f'state_dict of {argument}={str(path)!r}')


def _prediction(
    masked: Any, size: list[int], notes: list[str]
) -> Prediction | None:
    pruner = masked.pruner
    if 'latency' not in pruner.costs:
        return None
    cost = pruner.cost('latency')
    if not isinstance(cost, Latency):
        return None
    table = cost.setting.get('input_shape')
    # Of another size of the image a table says nothing.
    if table is not None and table != size:
        notes.append(f'no latency is predicted: the table is of {table}')
        return None
    ratio = pruner.ratios(['latency'])['latency']
    return Prediction(ratio, dict(cost.setting))


def _inputs(
    model: nn.Module,
    real: tuple[Tensor | None, str],
    shape: InputShape,
    batch: int,
    notes: list[str],
) -> Inputs:
    """Real images of the wanted shape, or a random one."""
    found, reason = real
    image = one_image(model, shape)
    if found is not None and found.shape[1:] != image.shape[1:]:
        reason = f'they are {list(found.shape[1:])}'
        found = None
    if found is None:
        wanted = list(image.shape[1:])
        notes.append(f'random images of {wanted}, no real ones: {reason}')
        return Inputs(image.repeat(batch, 1, 1, 1), image[:0])
    repeats = -(-batch // len(found))  # rounded up
    found = found.repeat(repeats, 1, 1, 1)
    # 5 images at batch 2: 4, two whole batches.
    whole = len(found) // batch * batch
    notes.append(f'{min(whole, IMAGES)} images of {reason}')
    return Inputs(found[:batch], found[:whole])


def _real_images(cfg: Config, model: nn.Module) -> tuple[Tensor | None, str]:
    batch, text = real_batch(cfg, IMAGES)
    if batch is None:
        return None, text
    preprocess: Any = model.data_preprocessor
    try:
        with torch.no_grad():
            inputs = preprocess(batch, False)['inputs']
    except Exception as error:  # whatever the user's code raises
        return None, f'{type(error).__name__}: {error}'.partition('\n')[0]
    if not isinstance(inputs, Tensor):
        return None, f'{text} gives no batch of images'
    return inputs, text
