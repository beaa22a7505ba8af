# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the rows of a table over what their training costs."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib

# Draws into a file, where there is no display.
matplotlib.use('Agg')
from matplotlib import pyplot as plt

from .rows import TABLES
from .table import by_row

DENSE = 'dense'


def plot(table: str, results: Path, picture: Path) -> None:
    """Draws a dot per row, its seeds beside it.

    Args:
        table (str): Name of the table.
        results (Path): File of its results.
        picture (Path): Where the picture goes.
    """
    found = by_row(TABLES[table], results)
    order = sorted(
        found,
        key=lambda name: statistics.mean(
            run['accuracy'] for run in found[name].values()
        ),
    )
    figure, axes = plt.subplots(figsize=(7, 0.42 * len(order) + 1.1))
    for height, name in enumerate(order):
        runs = found[name].values()
        accuracies = [run['accuracy'] for run in runs]
        mean = statistics.mean(accuracies)
        cost = statistics.mean(run['cost'] for run in runs)
        axes.plot(accuracies, [height] * len(runs), 'o', ms=4, color='0.7')
        axes.plot([mean], [height], 'D', ms=6, color=plt.cm.viridis(cost))
        # Beside the best seed, where no dot is in the way.
        axes.annotate(
            f'{mean:.2f}, {100 * cost:.0f} %',
            (max(accuracies), height),
            (8, 0),
            textcoords='offset points',
            va='center',
            fontsize=8,
        )
    if DENSE in found:
        dense = [run['accuracy'] for run in found[DENSE].values()]
        axes.axvline(statistics.mean(dense), color='0.5', lw=0.8, ls='--')
    axes.set_yticks(range(len(order)), order)
    axes.margins(x=0.16)
    axes.set_xlabel('top-1 in percent; beside it training cost over dense')
    axes.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)
    plt.close(figure)
