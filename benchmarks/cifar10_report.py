# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Table and picture of what benchmarks/cifar10.py has written.

    python benchmarks/cifar10_report.py benchmarks/results/cifar10 docs

Prints the table and writes ``<docs>/images/cifar10_keep.png``.
Runs that differ in their seed alone share a row.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt

NAMES = {
    'dense': 'dense',
    'lapp': 'LAPP',
    'uniform': 'uniform, from scratch',
    'random': 'random, from scratch',
}
# What a row is named by, beside its branch, where it is not the default.
SHARED = {'scope': 'backbone', 'ignore': '', 'score': 'l2'}
OPTIONS = {
    'dense': {},
    'lapp': {
        **SHARED,
        'surrogate': 'sigmoid',
        'update': 'balance',
        'order': 2,
        'task_weight': 0.3,
        'prune_epochs': 3,
    },
    'uniform': SHARED,
    'random': {**SHARED, 'spread': 0.5},
}


def title(arguments: dict[str, Any]) -> str:
    """Names a row by what is not the default."""
    method = arguments['method']
    parts = [NAMES[method]]
    if arguments['bypass'] != 'none':
        parts.append(f'{arguments["unit"]}, {arguments["bypass"]} bypass')
    parts += [
        f'{name}={arguments[name]}'
        for name, default in OPTIONS[method].items()
        if arguments.get(name, default) != default
    ]
    return ', '.join(parts)


def load(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Reads all results, by title."""
    rows = defaultdict(list)
    for path in sorted(folder.glob('*.json')):
        result = json.loads(path.read_text())
        rows[title(result['arguments'])].append(result)
    if not rows:
        raise SystemExit(f'{folder} holds no results of cifar10.py')
    return rows


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: FLOPs, accuracy and last training loss of every seed."""
    lines = [
        '| network | FLOPs | top-1 by seed | mean | last training loss | '
        'minutes |',
        '| :-- | --: | :-- | --: | :-- | --: |',
    ]
    for name, results in rows.items():
        seeds = sorted(results, key=lambda r: r['arguments']['seed'])
        top = [r['accuracy'] for r in seeds]
        losses = [r['history'][-1]['loss'] for r in seeds]
        lines.append(
            f'| {name} | {100 * mean(r["flops"] for r in seeds):.2f} % | '
            f'{", ".join(f"{a:.2f}" for a in top)} | {mean(top):.2f} | '
            f'{", ".join(f"{x:.3f}" for x in losses)} | '
            f'{mean(r["seconds"] for r in seeds) / 60:.0f} |'
        )
    return '\n'.join(lines) + '\n'


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Kept share of every group at the end, one panel per row."""
    pruned = {
        name: results[0]['history'][-1]['keep']
        for name, results in rows.items()
        if 'keep' in results[0]['history'][-1]
    }
    figure, axes = plt.subplots(
        len(pruned), 1, figsize=(9, 1.9 * len(pruned)), squeeze=False
    )
    for axis, (name, keep) in zip(axes[:, 0], pruned.items(), strict=True):
        labels = [k.removeprefix('backbone.') for k in keep]
        axis.bar(range(len(keep)), list(keep.values()), color='tab:blue')
        axis.set_xticks(range(len(keep)), labels, rotation=30, ha='right')
        axis.tick_params(labelsize=6)
        axis.set_ylim(0, 1)
        axis.set_ylabel('kept')
        axis.set_title(name, fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Prints the table and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('results', type=Path)
    parser.add_argument('docs', type=Path)
    args = parser.parse_args()
    rows = load(args.results)
    draw(rows, args.docs / 'images' / 'cifar10_keep.png')
    print(table(rows))


if __name__ == '__main__':
    main()
