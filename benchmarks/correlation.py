# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How alike do importance scores rank the channels of a trained network?

    python benchmarks/correlation.py data/cifar10 WEIGHTS \
        --json benchmarks/results/correlation.json \
        --plot docs/images/correlation.png
    python benchmarks/correlation.py --json FILE --plot PICTURE

``WEIGHTS`` are those of a trained ResNet-20, which ``benchmarks/accuracy``
leaves for networks that learn from it. ``tools/criteria.py`` compares scores
the same way, for any config; without data and weights the picture is made from
the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from accuracy.build import EXAMPLE, SCOPE
from accuracy.data import load_split, part_of, prepare
from accuracy.run import trained
from torch import Tensor, nn
from torch.nn import functional

from mmlapp.core import attach
from mmlapp.core.criteria import Calibration, compare_scores
from mmlapp.core.files import replace_text

matplotlib.use('Agg')
from matplotlib import pyplot as plt

# Scores by gradients are means of squares over batches: many say more.
BATCH = 8
TITLES = {'global': 'all channels', 'within_groups': 'mean within groups'}


def calibration(pixels: Tensor, labels: Tensor, model: nn.Module) -> Any:
    """Batches of a few images, which return losses or logits."""
    parts = list(zip(pixels.split(BATCH), labels.split(BATCH), strict=True))

    def run(images: Tensor, truth: Tensor, outputs: bool) -> Any:
        logits = model(prepare(images))
        if outputs:
            return logits
        return {'loss': functional.cross_entropy(logits, truth)}

    def batches(count: int, outputs: bool) -> Iterator[Callable[[], Any]]:
        for part in parts[:count]:
            yield partial(run, *part, outputs)

    return Calibration(len(parts), batches)


def study(model: nn.Module, pixels: Tensor, labels: Tensor) -> dict[str, Any]:
    """Spearman's correlations of all pairs of scores."""
    attach(model, EXAMPLE, scope=SCOPE)
    found = compare_scores(
        model, calibration=calibration(pixels, labels, model), progress=print
    )
    assert not found.left_out, found.left_out
    return {
        'images': len(pixels),
        'channels': sum(found.groups.values()),
        'scores': found.names,
        'global': found.correlation().tolist(),
        'within_groups': found.within_groups().tolist(),
    }


def plot(result: dict[str, Any], picture: Path) -> None:
    """Draws both tables as heat maps, with their numbers."""
    names = result['scores']
    figure, both = plt.subplots(
        1, 2, figsize=(12, 6), sharey=True, layout='constrained'
    )
    for axes, (key, title) in zip(both, TITLES.items(), strict=True):
        table = result[key]
        image = axes.imshow(table, cmap='RdBu_r', vmin=-1, vmax=1)
        axes.set_title(title)
        axes.set_xticks(range(len(names)), names, rotation=45, ha='right')
        axes.set_yticks(range(len(names)), names)
        for row, values in enumerate(table):
            for column, value in enumerate(values):
                axes.text(
                    column,
                    row,
                    f'{value:.2f}',
                    ha='center',
                    va='center',
                    fontsize=7,
                    color='white' if abs(value) > 0.6 else 'black',
                )
    figure.colorbar(image, ax=both, label="Spearman's correlation")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Compares the scores, if asked, and draws what is known of them."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', type=Path, nargs='?')
    parser.add_argument('weights', type=Path, nargs='?')
    parser.add_argument('--json', type=Path, required=True)
    parser.add_argument('--plot', type=Path, required=True)
    parser.add_argument('--images', type=int, default=64)
    args = parser.parse_args(argv)
    if args.data and not args.weights:
        parser.error('weights: give those of a trained network beside data')
    if args.data:
        pair = part_of(load_split(args.data, 'train'), args.images)
        result = study(trained(args.weights, 'cpu'), *pair)
        replace_text(args.json, json.dumps(result, indent=1) + '\n')
    plot(json.loads(args.json.read_text('utf-8')), args.plot)


if __name__ == '__main__':
    main()
