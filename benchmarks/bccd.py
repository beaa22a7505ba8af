# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A small detector on real photos, pruned to half by LAPP and its controls.

    unzip bccd_coco.zip -d data/bccd
    python benchmarks/bccd.py --seeds 0 1 2
    python benchmarks/bccd.py --report
    python benchmarks/bccd.py --images digits --seeds 0 1 2

``data/bccd`` holds ``images/`` and ``annotations/{train,test}.json`` of BCCD,
photos of blood smears; ``--images digits`` takes the scattered digits of the
demo, its detector and schedule, and no data. Every row is trained, deployed
and evaluated on the test split by the tools that a user takes; a run that was
stopped goes on, and what the file of results has is not run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools'))

from accuracy.jobs import Store  # noqa: E402
from accuracy.table import (  # noqa: E402
    by_row,
    deviation,
    markdown,
    with_spread,
)
from demo import TASKS, call, score  # noqa: E402
from former import CURVATURE, NO_FLOOR  # noqa: E402

from mmlapp.core import ChannelPlan  # noqa: E402

RESULTS = Path(__file__).parent / 'results'
METRIC = 'coco/bbox_mAP'
BACKBONE = 'backbone'
WHOLE = ('backbone', 'neck', 'bbox_head')


@dataclass(frozen=True)
class Images:
    """What is detected in, and by which network.

    Args:
        config (Path): Of the dense detector.
        shape (tuple[int, int, int]): Of an image.
        steps (int): Of an epoch.
        phase (float): Epochs in which LAPP decides.
    """

    config: Path
    shape: tuple[int, int, int]
    steps: int
    phase: float


DEMO = TASKS['detection']
IMAGES = {
    'bccd': Images(
        Path(__file__).with_name('bccd_atss.py'), (3, 160, 224), 26, 4
    ),
    'digits': Images(ROOT / DEMO.dense, DEMO.shape, 50, 3),
}


@dataclass(frozen=True)
class Row:
    """How a detector is pruned.

    Args:
        method (dict, optional): Of the pruned model. Defaults to None, dense.
        scope (str or Sequence[str]): What may be pruned.
        phases (float): How many phases of the images it decides in; 0 for a
            control, which is narrow after one step.
        settings (dict): More of the pruned model.
    """

    method: dict[str, Any] | None = None
    scope: str | Sequence[str] = BACKBONE
    phases: float = 1
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What all results of a file share.

    Args:
        target (float): Fraction of the dense network's FLOPs.
        epochs (int): Other than the config says; 0: those.
    """

    target: float
    epochs: int


LAPP, UNIFORM = {'type': 'lapp'}, {'type': 'uniform'}
RANDOM = {'type': 'random', 'spread': 0.5}
# All groups but residual streams.
INNER = {'keep_streams': True}
LAPP_WEAK = {'type': 'lapp', 'update': {'type': 'balance', 'task_weight': 0.1}}
# Floors of the groups that nothing goes around: as by default, half, and a
# quarter.
NEAR = {'min_keep': 'near_uniform'}
PATHS = {'min_keep': 'sole_path'}
LESS = {'min_keep': {'type': 'sole_path', 'share': 0.25}}
FLOOR = {'min_keep': 0.25}
ROWS = {
    'dense': Row(),
    'uniform': Row(UNIFORM, phases=0),
    'random': Row(RANDOM, phases=0),
    'lapp': Row(LAPP),
    'lapp-inner': Row(LAPP, settings=INNER),
    'curvature': Row(CURVATURE),
    'curvature-floor': Row(CURVATURE, settings=FLOOR),
    'uniform-whole': Row(UNIFORM, WHOLE, 0),
    'random-whole': Row(RANDOM, WHOLE, 0),
    'lapp-whole': Row(LAPP, WHOLE),
    'lapp-whole-inner': Row(LAPP, WHOLE, settings=INNER),
    'curvature-whole': Row(CURVATURE, WHOLE),
    'lapp-whole-near': Row(LAPP, WHOLE, settings=NEAR),
    'lapp-whole-paths': Row(LAPP, WHOLE, settings=PATHS),
    'lapp-whole-paths-quarter': Row(LAPP, WHOLE, settings=LESS),
    'lapp-whole-floor': Row(LAPP, WHOLE, settings=FLOOR),
    'lapp-whole-floor-half': Row(LAPP, WHOLE, settings={'min_keep': 0.5}),
    'lapp-whole-weak': Row(LAPP_WEAK, WHOLE),
    'lapp-whole-long': Row(LAPP, WHOLE, 2),
}
# In multiples of eight channels, as the recipe of the demo.
EIGHTS = (
    'lapp', 'uniform-whole', 'lapp-whole', 'lapp-whole-near',
    'lapp-whole-paths', 'lapp-whole-floor', 'lapp-whole-floor-half',
    'lapp-whole-weak',
)  # fmt: skip
ROWS |= {
    f'{name}-8': replace(
        ROWS[name], settings={**ROWS[name].settings, 'divisor': 8}
    )
    for name in EIGHTS
}


def config_of(
    row: Row, seed: int, target: float, epochs: int, images: str = 'bccd'
) -> str:
    """The config of a row, as text."""
    seen = IMAGES[images]
    lines = [f"_base_ = '{seen.config}'", f'randomness = dict(seed={seed})']
    if epochs:
        lines += [
            f'train_cfg = dict(max_epochs={epochs}, val_interval={epochs})'
        ]
    if row.method is None:
        return '\n'.join(lines) + '\n'
    method = dict(row.method)
    if method['type'] == 'random':
        method['seed'] = seed
    model = {
        'type': 'mmlapp.PrunableModel',
        'input_shape': seen.shape,
        'scope': row.scope,
        'method': method,
        # Unless the row has another one.
        **NO_FLOOR,
        **row.settings,
    }
    steps = round(row.phases * seen.phase * seen.steps)
    hook = {
        'type': 'mmlapp.PruningHook',
        'target': {'flops': target},
        'prune_iters': max(steps, 1),
    }
    lines += [
        "custom_imports = dict(imports=['mmlapp'])",
        f'model = dict(architecture=_base_.model.type, **{model!r})',
        "optim_wrapper = dict(type='mmlapp.PruningOptimWrapper')",
        f'custom_hooks = [{hook!r}]',
    ]
    return '\n'.join(lines) + '\n'


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trains, deploys and evaluates a row."""
    row = ROWS[name]
    folder = (args.work_dir / f'{name}-s{seed}').resolve()
    config = folder.with_suffix('.py')
    config.parent.mkdir(parents=True, exist_ok=True)
    text = config_of(row, seed, args.target, args.epochs, args.images)
    config.write_text(text)
    call(
        'train.py', config, '--work-dir', folder, '--resume',
        log=folder / 'train.log',
    )  # fmt: skip
    checkpoint = Path((folder / 'last_checkpoint').read_text().strip())
    widths: dict[str, int] = {}
    left = 1.0
    if row.method is not None:
        out = folder / 'deployed'
        call(
            'deploy.py', config, checkpoint, out, '--force',
            log=folder / 'deploy.log',
        )  # fmt: skip
        config = out / config.name
        checkpoint = config.with_suffix('.pth')
        plan = ChannelPlan.load(config.with_suffix('.plan.json'))
        left = plan.ratios()['flops']
        widths = {g: kept.count for g, kept in plan.groups.items()}
    metric = score(config, checkpoint, folder / 'test', METRIC)
    return {
        'row': name,
        'seed': seed,
        'accuracy': 100 * metric,
        'flops': left,
        'widths': widths,
    }


def report(path: Path) -> str:
    """A Markdown table with differences to dense and uniform."""
    return markdown(by_row(ROWS, path), ('FLOPs', 'seeds', 'mAP'), cells)


def cells(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What is told of a row."""
    values = [run['accuracy'] for run in runs]
    left = mean(run['flops'] for run in runs)
    return [
        f'{100 * left:.1f} %',
        f'{len(runs)}',
        with_spread(f'{mean(values):.1f}', deviation(values)),
    ]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    add = parser.add_argument
    add('--rows', nargs='+', choices=ROWS, default=list(ROWS))
    add('--seeds', nargs='+', type=int, default=[0, 1, 2])
    add('--target', type=float, default=0.5)
    add('--epochs', type=int, default=0, help='other than the config says')
    add('--images', choices=IMAGES, default='bccd')
    add('--work-dir', type=Path)
    add('--out', type=Path, help='file of the results')
    add('--report', action='store_true', help='only tell what there is')
    args = parser.parse_args(argv)
    # Each kind of images has its own.
    args.work_dir = args.work_dir or ROOT / 'work_dirs' / args.images
    args.out = args.out or RESULTS / f'{args.images}.json'
    return args


def main() -> None:
    """Runs what is not there yet, seed by seed, or reports."""
    args = parse_args()
    if not args.report:
        run_all(args, Store(args.out, Recipe(args.target, args.epochs)))
    print(report(args.out))


def run_all(args: argparse.Namespace, store: Store) -> None:
    """Runs what is not there yet, seed by seed."""
    for seed in args.seeds:
        for name in args.rows:
            if store.find(name, seed) is None:
                result = run(name, seed, args)
                store.add(result)
                print(name, seed, f'{result["accuracy"]:.1f}', flush=True)


if __name__ == '__main__':
    main()
