# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How the weights of a layer are distributed: tests, moments, quantiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmlapp.core import PruningError

# Weights that are tested of a layer: of millions every test would reject.
SAMPLE = 5000
# Fewest that the test of normality has tables for.
FEWEST = 20
# Points of a quantile plot.
POINTS = 41


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one layer.

    Args:
        layer (str): Name of the layer.
        weights (int): How many it has.
        tested (int): How many of them were tested, drawn with a fixed seed.
        mean (float): Of all weights.
        std (float): Of all weights.
        skewness (float, optional): Of those tested; 0 if symmetric.
        excess_kurtosis (float, optional): Likewise; 0 if normal.
        normality (float, optional): p-value that they are normal, by
            skewness and kurtosis (D'Agostino and Pearson, 1973).
        zero_mean (float, optional): p-value that the mean is zero (Student).
        symmetry (float, optional): p-value that they are symmetric around
            zero (Wilcoxon's signed ranks, 1945).
        quantiles (list[list[float]]): Pairs: of the normal distribution,
            and of the weights in standard deviations from their mean.

    All that is optional is None for a layer with fewer than 20 weights, or
    with equal ones.
    """

    layer: str
    weights: int
    tested: int
    mean: float
    std: float
    skewness: float | None
    excess_kurtosis: float | None
    normality: float | None
    zero_mean: float | None
    symmetry: float | None
    quantiles: list[list[float]]


def weights_of(layer: str, weight: Tensor) -> LayerWeights:
    """Tests the weights of a layer.

    The Convolution Weight Distribution study (arXiv 2004.11627) takes them
    to be normal, with mean zero.

    Args:
        layer (str): Its name.
        weight (Tensor): Of any shape.

    Raises:
        PruningError: If scipy is not installed.
    """
    stats = scipy_stats()
    values = weight.detach().flatten().cpu().double()
    sample = _drawn(values).numpy()
    # Of all weights, which are the whole population and no sample.
    std = float(values.std(correction=0))
    found: dict[str, float | None] = dict.fromkeys(
        ('skewness', 'excess_kurtosis', 'normality', 'zero_mean', 'symmetry')
    )
    if len(sample) >= FEWEST and std > 0:
        found = {
            'skewness': float(stats.skew(sample)),
            'excess_kurtosis': float(stats.kurtosis(sample)),
            'normality': float(stats.normaltest(sample).pvalue),
            'zero_mean': float(stats.ttest_1samp(sample, 0).pvalue),
            'symmetry': float(stats.wilcoxon(sample).pvalue),
        }
    return LayerWeights(
        layer=layer,
        weights=len(values),
        tested=len(sample),
        mean=float(values.mean()),
        std=std,
        quantiles=quantiles(values) if std > 0 else [],
        **{key: _finite(value) for key, value in found.items()},
    )


def scipy_stats() -> Any:
    """Returns ``scipy.stats``.

    Raises:
        PruningError: If scipy is not installed.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise PruningError(
            'the tests of the weights need scipy, which is not installed: '
            'pip install scipy'
        ) from error
    return stats


def quantiles(values: Tensor, points: int = POINTS) -> list[list[float]]:
    """Quantiles of a normal distribution, and of values beside them.

    Args:
        values (Tensor): Shape ``[N]``, not all equal.
        points (int): How many, evenly over the shares of the values.

    Returns:
        list[list[float]]: Pairs of both distributions in standard
        deviations from their means: equal where the values are normal.
    """
    # In the middle of equal shares: 1/2n, 3/2n, ...
    shares = (torch.arange(points).double() + 0.5) / points
    # Phi^-1(q) = sqrt(2) erfinv(2 q - 1).
    normal = math.sqrt(2) * torch.erfinv(2 * shares - 1)
    ordered = values.double().sort().values
    # torch.quantile takes no more than 16 million.
    place = (shares * len(ordered)).long().clamp_max(len(ordered) - 1)
    spread = ordered.std(correction=0)
    found = (ordered[place] - ordered.mean()) / spread
    return torch.stack([normal, found], dim=1).tolist()


def _drawn(values: Tensor) -> Tensor:
    """At most SAMPLE of them, the same every time."""
    if len(values) <= SAMPLE:
        return values
    dice = torch.Generator().manual_seed(0)
    return values[torch.randint(len(values), (SAMPLE,), generator=dice)]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
