# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Train, prune and deploy two small networks on real digits.

A ResNet-20 is trained dense and with LAPP under the same schedule, then a
detector; each pruned network is deployed, loaded with the stock call of its
library and compared with the dense one.

Examples:
    python tools/demo.py
    python tools/demo.py --seeds 0 1 2 --only classification
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from mmlapp.core.files import replace_text

ROOT = Path(__file__).resolve().parents[1]
CONSOLE = Console()


@dataclass(frozen=True)
class Task:
    """One dense config and its pruned twin."""

    title: str
    dense: str
    pruned: str
    metric: str
    shape: tuple[int, int, int]
    load: Callable[[Path, Path], Any]


def load_classifier(config: Path, checkpoint: Path) -> Any:
    """Loads a classifier as any user of mmpretrain does."""
    from mmpretrain.apis import get_model

    return get_model(str(config), pretrained=str(checkpoint), device='cpu')


def load_detector(config: Path, checkpoint: Path) -> Any:
    """Loads a detector as any user of mmdet does."""
    from mmdet.apis import init_detector

    return init_detector(str(config), str(checkpoint), device='cpu')


TASKS = {
    'classification': Task(
        'ResNet-20 on the digits',
        'configs/digits/resnet20_b64_digits.py',
        'configs/digits/lapp-flops40_resnet20_b64_digits.py',
        'accuracy/top1',
        (3, 16, 16),
        load_classifier,
    ),
    'detection': Task(
        'ATSS on scattered digits',
        'configs/digits/atss_r18-w16_fpn_b16_digits-detection.py',
        'configs/digits/lapp-flops50_atss_r18-w16_fpn_b16_digits-detection.py',
        'coco/bbox_mAP',
        (3, 112, 112),
        load_detector,
    ),
}


def call(script: str, *arguments: object, log: Path) -> float:
    """Runs one of our tools, its output in a log; returns the seconds."""
    program = sys.executable if script.endswith('.py') else 'bash'
    command = [program, str(ROOT / 'tools' / script)]
    command += [str(a) for a in arguments]
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log.open('w') as stream:
        result = subprocess.run(
            command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT
        )
    if result.returncode:
        tail = ''.join(log.read_text().splitlines(keepends=True)[-15:])
        raise SystemExit(f'{script} failed, see {log}:\n{tail}')
    return time.perf_counter() - started


def train(config: str, folder: Path, seed: int) -> tuple[Path, float]:
    """Trains one config; returns its last checkpoint and the seconds."""
    seconds = call(
        'train.py', config, '--work-dir', folder,
        '--cfg-options', f'randomness.seed={seed}',
        log=folder / 'train.log',
    )  # fmt: skip
    checkpoint = Path((folder / 'last_checkpoint').read_text().strip())
    return checkpoint, seconds


def score(config: Path, checkpoint: Path, folder: Path, metric: str) -> float:
    """Evaluates a checkpoint on the test split."""
    out = folder / 'metrics.json'
    call(
        'test.py', config, checkpoint, '--out', out, '--work-dir', folder,
        log=folder / 'test.log',
    )  # fmt: skip
    return float(json.loads(out.read_text())[metric])


@dataclass
class Row:
    """One network in the result table."""

    name: str
    metric: float
    flops: float
    parameters: int
    seconds: float


def run_task(task: Task, out: Path, seed: int) -> dict[str, Any]:
    """Trains, prunes, deploys and compares one pair."""
    folders = {name: out / name for name in ('dense', 'pruned', 'deployed')}
    checkpoints, seconds = {}, {}
    for name, config in (('dense', task.dense), ('pruned', task.pruned)):
        with CONSOLE.status(f'{task.title}: training {name}, seed {seed} ...'):
            checkpoints[name], seconds[name] = train(
                config, folders[name], seed
            )
        CONSOLE.print(f'{task.title}: {name}, {seconds[name]:.0f} s')
    with CONSOLE.status(f'{task.title}: deploying ...'):
        call(
            'deploy.py', task.pruned, checkpoints['pruned'],
            folders['deployed'], '--force', log=out / 'deploy.log',
        )  # fmt: skip
        (config,) = folders['deployed'].glob('*.py')
        checkpoint = config.with_suffix('.pth')
        files = {
            'dense': (ROOT / task.dense, checkpoints['dense']),
            'deployed': (config, checkpoint),
        }
        metrics = {
            name: score(*pair, out / f'test-{name}', task.metric)
            for name, pair in files.items()
        }
    models = {name: task.load(*pair) for name, pair in files.items()}
    for model in models.values():
        model.eval()
    rows = [
        Row(
            name,
            metrics[name],
            count_flops(model, task.shape),
            sum(p.numel() for p in model.parameters()),
            seconds['dense' if name == 'dense' else 'pruned'],
        )
        for name, model in models.items()
    ]
    return {
        'title': task.title,
        'metric': task.metric,
        'seed': seed,
        'rows': [asdict(row) for row in rows],
        'latency_ratio': latency_ratio(
            models['deployed'], models['dense'], task.shape
        ),
        'history': history(folders['pruned']),
    }


def count_flops(model: Any, shape: tuple[int, int, int]) -> float:
    """Multiply-adds of convolutions and matrix products, by fvcore."""
    import torch
    from fvcore.nn import FlopCountAnalysis
    from torch import nn

    class Tensors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> Any:
            return self.model(x, None, mode='tensor')

    analysis = FlopCountAnalysis(Tensors(), torch.zeros(1, *shape))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counted = analysis.by_operator()
    return float(sum(counted[op] for op in ('conv', 'linear', 'matmul')))


def latency_ratio(
    fast: Any, slow: Any, shape: tuple[int, int, int], pairs: int = 30
) -> float:
    """Median ratio of forward times on 32 images, taking turns."""
    import torch

    images = torch.rand(32, *shape)

    def seconds(model: Any) -> float:
        started = time.perf_counter()
        model(images, None, mode='tensor')
        return time.perf_counter() - started

    with torch.no_grad():
        ratios = [seconds(fast) / seconds(slow) for _ in range(pairs + 5)]
    return sorted(ratios[5:])[pairs // 2]


def history(folder: Path) -> dict[str, Any]:
    """FLOPs over training and the last keep ratios, from the visualizer."""
    path = max(folder.glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    phase = [row for row in rows if 'pruning/flops_target' in row]
    end = max(row['step'] for row in rows if 'flops_ratio' in row)
    curve = [(row['step'], row['pruning/flops_ratio']) for row in phase]
    target = [(row['step'], row['pruning/flops_target']) for row in phase]
    keep = {
        name.removeprefix('pruning/keep/'): value
        for name, value in phase[-1].items()
        if name.startswith('pruning/keep/')
    }
    return {
        'flops': [(0, 1.0), *curve, (end, curve[-1][1])],
        'target': [(0, 1.0), *target, (end, target[-1][1])],
        'keep': keep,
    }


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Prints all results, the mean over seeds where there are several."""
    table = Table(title='Dense against deployed')
    for column in ('network', 'metric', 'dense', 'deployed', 'ratio'):
        table.add_column(
            column, justify='right' if column != 'network' else 'left'
        )
    for title in dict.fromkeys(r['title'] for r in results):
        same = [r for r in results if r['title'] == title]

        def average(key: str, index: int, same: Any = same) -> float:
            return mean(r['rows'][index][key] for r in same)

        for label, key, style, scale in (
            (same[0]['metric'], 'metric', '.3f', 1.0),
            ('FLOPs (M, fvcore)', 'flops', '.2f', 1e-6),
            ('parameters (k)', 'parameters', '.1f', 1e-3),
            ('training (s)', 'seconds', '.0f', 1.0),
        ):
            dense, small = average(key, 0), average(key, 1)
            table.add_row(
                title, label, format(dense * scale, style),
                format(small * scale, style), f'{small / dense:.3f}',
            )  # fmt: skip
        if len(same) > 1:
            spreads = [
                spread(r['rows'][index]['metric'] for r in same)
                for index in (0, 1)
            ]
            label = f'lowest to highest of {len(same)} seeds'
            table.add_row(title, label, *spreads)
        ratio = mean(r['latency_ratio'] for r in same)
        table.add_row(title, 'CPU latency, 32 images', '', '', f'{ratio:.3f}')
        table.add_section()
    CONSOLE.print(table)


def spread(values: Iterable[float]) -> str:
    """Lowest to highest."""
    ordered = sorted(values)
    return f'{ordered[0]:.3f} to {ordered[-1]:.3f}'


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws keep ratios per group and FLOPs over training."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    first = list({r['title']: r for r in reversed(results)}.values())[::-1]
    figure, axes = pyplot.subplots(
        len(first), 2, figsize=(11, 4 * len(first)), squeeze=False,
        gridspec_kw={'width_ratios': [3, 2]}, layout='constrained',
    )  # fmt: skip
    for (left, right), result in zip(axes, first, strict=True):
        keep = result['history']['keep']
        names = [name.removeprefix('backbone.') for name in keep]
        left.bar(names, keep.values(), color='tab:blue')
        left.set_ylim(0, 1)
        left.set_ylabel('kept channels')
        left.set_title(f'{result["title"]}: channel groups')
        left.tick_params(axis='x', rotation=60)
        for label in left.get_xticklabels():
            label.set_horizontalalignment('right')
            label.set_rotation_mode('anchor')
        for name, style in (('flops', '-'), ('target', '--')):
            steps, values = zip(*result['history'][name], strict=True)
            label = 'network' if name == 'flops' else name
            right.plot(steps, values, style, label=label)
        right.set_ylim(0, 1.05)
        right.set_xlabel('iteration')
        right.set_ylabel('FLOPs over dense FLOPs')
        right.set_title('FLOPs over training')
        right.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--only', choices=list(TASKS))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    return parser.parse_args()


def main() -> None:
    """Runs all tasks and prints one table."""
    args = parse_args()
    started = time.perf_counter()
    results = [
        run_task(task, (args.out / name / f'seed{seed}').resolve(), seed)
        for name, task in TASKS.items()
        if args.only in (None, name)
        for seed in args.seeds
    ]
    print_table(results)
    draw(results, args.out / 'demo.png')
    report = args.out / 'results.json'
    replace_text(report, json.dumps(results, indent=1) + '\n')
    CONSOLE.print(
        f'{time.perf_counter() - started:.0f} s; results in {report}, '
        f'pictures in {args.out / "demo.png"}'
    )


if __name__ == '__main__':
    main()
