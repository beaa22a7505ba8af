# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The study of a config: its scores compared, its weights tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn

from mmlapp.core import Pruner, PruningError
from mmlapp.core.criteria import Calibration, ScoreComparison, compare_scores
from mmlapp.core.criteria.comparison import TOO_CLOSE
from mmlapp.core.numbers import check_number
from mmlapp.core.score.group_scores import stored_weight

from ..checkpoints.checked_loading import checked_loading
from ..checkpoints.random_state import same_random_numbers
from ..checkpoints.reading import PREFIX
from ..checkpoints.weights import load_weights
from ..config_files import check_checkpoint
from ..deployment.recipe import dense_config, own_settings
from ..models.default_scope import default_scope_of
from ..models.plans import KEY
from ..models.prunable import prunable_model
from ..training.calibration import calibration_batches
from .weights import LayerWeights, scipy_stats, weights_of

RANDOM_WEIGHTS = (
    'no checkpoint: the weights are random, as training finds them at its '
    'start. How scores differ there says little about a trained network'
)
# What a comparison does not depend on, and how it is set for it.
RANKED = dict(method='ranking', score='l2', shrink=None, protect=0)


@dataclass(frozen=True)
class Study:
    """What is known of the scores of a config's model.

    Args:
        config (str): Where the config comes from.
        checkpoint (str, optional): That of the weights.
        batches (int): Calibration batches, 0 for none.
        target (dict[str, float]): Fractions of the dense costs at which kept
            channels are compared.
        normalisation (str): How scores of layers were made comparable there.
        scores (ScoreComparison): The scores beside each other.
        layers (list[LayerWeights]): The weights of every scored layer.
    """

    config: str
    checkpoint: str | None
    batches: int
    target: dict[str, float]
    normalisation: str
    scores: ScoreComparison
    layers: list[LayerWeights]

    @property
    def warnings(self) -> list[str]:
        """What to know before the rest is read."""
        return list(_warnings(self))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, texts, lists and dicts; see docs/methods.md.

        Matrices have a row and a column for every entry of ``scores``; None
        stands for what is not defined.
        """
        found = self.scores
        return {
            'config': self.config,
            'checkpoint': self.checkpoint,
            'batches': self.batches,
            'target': dict(self.target),
            'normalisation': self.normalisation,
            'warnings': self.warnings,
            'scores': found.names,
            'left_out': dict(found.left_out),
            'within_groups': plain(found.within_groups()),
            'global': plain(found.correlation()),
            'jaccard': plain(found.overlap()),
            'groups': [self._group(name) for name in found.groups],
            'layers': [asdict(layer) for layer in self.layers],
        }

    def _group(self, name: str) -> dict[str, Any]:
        found = self.scores
        # [scores, channels of the group] -> [scores].
        kept = found.of_group(found.kept, name).sum(dim=1).tolist()
        return {
            'name': name,
            'channels': found.groups[name],
            'variation': found.variation(name),
            'same_values': found.same_values(name),
            'correlation': plain(found.correlation(name)),
            'kept': dict(zip(found.names, kept, strict=True)),
            'disputed': [
                {'channel': channel, 'kept_by': names}
                for channel, names in found.disputed(name).items()
            ],
        }


def _warnings(study: Study) -> Iterator[str]:
    if study.checkpoint is None:
        yield RANDOM_WEIGHTS
    close, number = study.scores.too_close(), len(study.scores.groups)
    for name in study.scores.names:
        found = [(value, group) for n, group, value in close if n == name]
        if found:
            least, group = min(found)
            yield (
                f'{name} varies by less than {TOO_CLOSE:.0%} in {len(found)} '
                f'of {number} groups ({least:.2%} in {group}): it can hardly '
                'tell channels apart there'
            )


def plain(matrix: Tensor) -> list[list[float | None]]:
    """Returns a matrix as lists, None for NaN.

    Args:
        matrix (Tensor): Shape ``[rows, columns]``.

    Examples:
        >>> import torch
        >>> plain(torch.tensor([[1.0, torch.nan]]))
        [[1.0, None]]
    """
    # NaN alone is unlike itself; JSON has no number for it.
    return [[None if x != x else x for x in row] for row in matrix.tolist()]


def study_config(
    cfg: Config,
    checkpoint: str | Path | None = None,
    *,
    scores: Sequence[str] | None = None,
    target: Mapping[str, float] | None = None,
    batches: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Study:
    """Compares scores on the model of a config, and tests its weights.

    Args:
        cfg (Config): Of a dense or a prunable model; not changed.
        checkpoint (str or Path, optional): Weights of the whole model, from
            before any pruning. Defaults to None: random ones.
        scores (Sequence[str], optional): Names. Defaults to None: all that
            can be had.
        target (Mapping[str, float], optional): Where kept channels are
            compared. Defaults to half of the FLOPs.
        batches (int): Calibration batches of ``train_dataloader`` for scores
            that ask for data. Defaults to 0: none.
        settings (Mapping, optional): Arguments of ``PrunableModel`` instead
            of the config's, such as ``scope``. Defaults to None.
        progress (Callable): Is told what is being done. Defaults to nothing.

    Raises:
        PruningError: If a name is unknown, a score cannot be had, the
            checkpoint does not fit or is pruned, or scipy is missing.
    """
    scipy_stats()
    check_number('batches', batches, least=0, whole=True)
    if checkpoint is not None:
        check_checkpoint('checkpoint', checkpoint)
    target = {'flops': 0.5} if target is None else target
    # The later wins: the config, what the caller wants, what must be so.
    own = {**own_settings(cfg.model), **(settings or {}), **RANKED}
    with default_scope_of(cfg), same_random_numbers():
        progress('building the model')
        model = _with_weights(cfg, own, checkpoint)
        found = compare_scores(
            model,
            scores,
            target=target,
            normalisation=own['normalisation'],
            calibration=_calibration(cfg, model, batches),
            progress=progress,
        )
        progress('testing the weights')
        layers = _layers(model)
    return Study(
        config=str(cfg.filename or 'config'),
        checkpoint=None if checkpoint is None else str(checkpoint),
        batches=batches,
        target=dict(target),
        normalisation=own['normalisation'],
        scores=found,
        layers=layers,
    )


def _with_weights(
    cfg: Config, own: Mapping[str, Any], checkpoint: str | Path | None
) -> Any:
    """The prunable model of a config, with weights of a file or random ones.

    Those are the same at every call. The caller puts back the state of the
    generator.
    """
    torch.manual_seed(0)
    model = _build(cfg, own)
    if checkpoint is None:
        with _without_log():
            model.init_weights()
    else:
        _load(model, checkpoint)
    return model


def _build(cfg: Config, own: Mapping[str, Any]) -> Any:
    """The prunable model of any config, in evaluation mode."""
    model = dense_config(cfg)
    preprocessor = model.pop('data_preprocessor', None)
    return prunable_model(
        architecture=model, data_preprocessor=preprocessor, **own
    ).eval()


@contextmanager
def _without_log() -> Iterator[None]:
    """MMEngine logs how it initialises each parameter, and what it loads."""
    logger = MMLogger.get_current_instance()
    former = logger.level
    logger.setLevel('WARNING')
    try:
        yield
    finally:
        logger.setLevel(former)


def _load(model: nn.Module, path: str | Path) -> None:
    """Loads weights of the whole model, from before it was pruned.

    Raises:
        PruningError: If they are of another model, or pruned.
    """
    with checked_loading(), _without_log():
        data = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    # A checkpoint of MMEngine, or a bare state dict, as of torchvision.
    weights = data.get('state_dict', data)
    gate = weights.get(f'{PREFIX}gate')
    if KEY in weights or (gate is not None and not (gate == 1).all()):
        raise PruningError(
            f'checkpoint={str(path)!r} is of a model that was pruned, without '
            'some of its channels. Give one from before the pruning phase, or '
            'of the dense model'
        )
    dense = {k: v for k, v in weights.items() if not k.startswith(PREFIX)}
    load_weights(model, dense, f'checkpoint={str(path)!r}')


def _calibration(
    cfg: Config, model: nn.Module, count: int
) -> Calibration | None:
    """Batches of the training data of a config.

    Raises:
        PruningError: If it has none.
    """
    if count == 0:
        return None
    if cfg.get('train_dataloader') is None:
        raise PruningError(
            f'batches={count}: the config has no train_dataloader to take '
            'calibration batches from. Add one, or leave batches out'
        )
    # In a fixed order, so that two studies see the same batches.
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    if len(loader) < count:
        raise PruningError(
            f'batches={count}: an epoch of train_dataloader has '
            f'{len(loader)}. Ask for at most as many'
        )

    def batches(number: int, outputs: bool) -> Iterator[Callable[[], Any]]:
        mode = 'tensor' if outputs else 'loss'
        return calibration_batches(loader, model, number, mode, seed=0)

    return Calibration(count, batches)


def _layers(model: Any) -> list[LayerWeights]:
    """Of all scored layers, in the order of the network."""
    pruner: Pruner = model.pruner
    # A layer that emits channels of several groups is in each of them.
    layers = {la.name: la for g in pruner.groups for la in g.layers}
    return [
        weights_of(name, stored_weight(layers[name]))
        for name, _ in model.named_modules()
        if name in layers
    ]
