# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Train, prune and deploy two small networks on real digits.

A ResNet-20 is trained dense and with LAPP under the same schedule, then a
detector; each pruned network is deployed, loaded with the stock call of its
library and compared with the dense one. Each program has one thread unless
OMP_NUM_THREADS says otherwise: results are the same then on few cores and
many, and programs that share the cores do not wait for each other's threads.

Examples:
    python tools/demo.py
    python tools/demo.py --seeds 0 1 2 --only classification
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from mmlapp.core import ChannelPlan
from mmlapp.core.files import json_text, replace_text
from mmlapp.engine.known_notes import known_notes_hidden

ROOT = Path(__file__).resolve().parents[1]
CONSOLE = Console(highlight=False)


@dataclass(frozen=True)
class Task:
    """One dense config and its pruned twin.

    Args:
        title (str): What is learned.
        dense (str): The config of the dense network.
        pruned (str): That of its twin.
        metric (str): Of the evaluation, the larger the better.
        label (str): The metric as people read it.
        digits (int): How many of it are shown behind the point.
        shape (tuple[int, int, int]): Of an image, for FLOPs and latency.
        load (Callable): Loads a config and its checkpoint.
    """

    title: str
    dense: str
    pruned: str
    metric: str
    label: str
    digits: int
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
        'top-1 accuracy (%)',
        2,
        (3, 16, 16),
        load_classifier,
    ),
    'detection': Task(
        'ATSS on scattered digits',
        'configs/digits/atss_r18-w16_fpn_b16_digits-detection.py',
        'configs/digits/lapp-flops50_atss_r18-w16_fpn_b16_digits-detection.py',
        'coco/bbox_mAP',
        'mAP of COCO (0 to 1)',
        3,
        (3, 112, 112),
        load_detector,
    ),
}


class Spent(NamedTuple):
    """What a program took.

    Args:
        seconds (float): By the clock.
        processor (float): Of all its threads and children, in seconds. Other
            programs beside it hardly change that.
    """

    seconds: float
    processor: float


def call(script: str, *arguments: object, log: Path) -> Spent:
    """Runs one of our tools, its output in a log; returns what it took."""
    program = sys.executable if script.endswith('.py') else 'bash'
    command = [program, str(ROOT / 'tools' / script)]
    command += [str(a) for a in arguments]
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log.open('w') as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT
        )
    # Not process.wait(), which forgets what this one child has used.
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = ''.join(log.read_text().splitlines(keepends=True)[-15:])
        raise SystemExit(f'{script} failed, see {log}:\n{tail}')
    seconds = time.perf_counter() - started
    return Spent(seconds, used.ru_utime + used.ru_stime)


def train(config: str, folder: Path, seed: int) -> tuple[Path, Spent]:
    """Trains one config; returns its last checkpoint and what it took."""
    spent = call(
        'train.py', config, '--work-dir', folder,
        '--cfg-options', f'randomness.seed={seed}',
        log=folder / 'train.log',
    )  # fmt: skip
    checkpoint = Path((folder / 'last_checkpoint').read_text().strip())
    return checkpoint, spent


def train_both(
    task: Task, out: Path, seed: int
) -> tuple[dict[str, Path], dict[str, Spent]]:
    """Trains the pair, at once where there are cores for both.

    Args:
        task (Task): The pair.
        out (Path): Each has a folder in it.
        seed (int): Of both.

    Returns:
        tuple[dict, dict]: Checkpoints, and what the trainings took.
    """
    workers = min(2, len(os.sched_getaffinity(0)))
    with (
        CONSOLE.status(f'{task.title}: training both, seed {seed} ...'),
        ThreadPoolExecutor(workers) as pool,
    ):
        runs = {
            name: pool.submit(train, config, out / name, seed)
            for name, config in (
                ('dense', task.dense),
                ('pruned', task.pruned),
            )
        }
        done = {name: run.result() for name, run in runs.items()}
    spent = {name: took for name, (_, took) in done.items()}
    longest = max(took.seconds for took in spent.values())
    CONSOLE.print(f'{task.title}, seed {seed}: both trained, {longest:.0f} s')
    return {name: checkpoint for name, (checkpoint, _) in done.items()}, spent


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
    """One network of the result.

    Args:
        name (str): ``dense`` or ``deployed``.
        metric (float): Of the test split.
        flops (float): Multiply-adds for one image.
        parameters (int): How many.
        processor (float): Seconds of its training, from the start of the
            program to its end, validation included.
        seconds (float): The same by the clock.
        latency (float): Median of a forward of 32 images, in seconds.
    """

    name: str
    metric: float
    flops: float
    parameters: int
    processor: float
    seconds: float
    latency: float


def deploy(task: Task, out: Path, checkpoint: Path) -> Path:
    """Deploys the pruned network; returns its config."""
    folder = out / 'deployed'
    call(
        'deploy.py', task.pruned, checkpoint, folder, '--force',
        log=out / 'deploy.log',
    )  # fmt: skip
    (config,) = folder.glob('*.py')
    return config


def run_task(task: Task, out: Path, seed: int) -> dict[str, Any]:
    """Trains, prunes, deploys and compares one pair."""
    checkpoints, spent = train_both(task, out, seed)
    with CONSOLE.status(f'{task.title}: deploying and testing ...'):
        config = deploy(task, out, checkpoints['pruned'])
        files = {
            'dense': (ROOT / task.dense, checkpoints['dense']),
            'deployed': (config, config.with_suffix('.pth')),
        }
        metrics = {
            name: score(*pair, out / f'test-{name}', task.metric)
            for name, pair in files.items()
        }
        models = {name: task.load(*pair) for name, pair in files.items()}
        for model in models.values():
            model.eval()
        times = latencies(models['deployed'], models['dense'], task.shape)
    trained = {'dense': spent['dense'], 'deployed': spent['pruned']}
    rows = [
        Row(
            name,
            metrics[name],
            count_flops(model, task.shape),
            sum(p.numel() for p in model.parameters()),
            trained[name].processor,
            trained[name].seconds,
            times[name],
        )
        for name, model in models.items()
    ]
    plan = ChannelPlan.load(config.with_suffix('.plan.json'))
    return {
        'title': task.title,
        'metric': task.metric,
        'seed': seed,
        'rows': [asdict(row) for row in rows],
        'latency_ratio': times['ratio'],
        'widths': {g: [k.size, k.count] for g, k in plan.groups.items()},
        'history': history(out / 'pruned'),
    }


def run_or_read(name: str, out: Path, seed: int, resume: bool) -> Any:
    """Runs a task, or reads what a run that was stopped had finished.

    Args:
        name (str): Of the task.
        out (Path): Its folder.
        seed (int): Of the training.
        resume (bool): Whether to read.
    """
    task, file = TASKS[name], out / 'result.json'
    if resume and file.exists() and not is_stale(file):
        CONSOLE.print(f'{task.title}, seed {seed}: done before, see {out}')
        return json.loads(file.read_text())
    out.mkdir(parents=True, exist_ok=True)
    result = run_task(task, out, seed)
    replace_text(file, json.dumps(result, indent=1) + '\n')
    return result


def is_stale(file: Path) -> bool:
    """Whether the sources were changed after a file was written."""
    sources = (
        path.stat().st_mtime
        for folder in ('mmlapp', 'configs', 'tools')
        for path in (ROOT / folder).rglob('*.py')
    )
    return max(sources) > file.stat().st_mtime


def count_flops(model: Any, shape: tuple[int, int, int]) -> float:
    """Multiply-adds of convolutions and matrix products, by fvcore."""
    from fvcore.nn import FlopCountAnalysis

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


def latencies(
    fast: Any, slow: Any, shape: tuple[int, int, int], pairs: int = 30
) -> dict[str, float]:
    """Times forwards of 32 images, the networks taking turns.

    Args:
        fast (Any): The deployed model.
        slow (Any): The dense model.
        shape (tuple[int, int, int]): Of an image.
        pairs (int): Turns that count, after five to warm up. Defaults to 30.

    Returns:
        dict[str, float]: Median seconds of ``deployed`` and ``dense``, and
        the median ``ratio`` of a turn, which other load changes least.
    """
    images = torch.rand(32, *shape)

    def seconds(model: Any) -> float:
        started = time.perf_counter()
        model(images, None, mode='tensor')
        return time.perf_counter() - started

    with torch.no_grad():
        turns = [(seconds(fast), seconds(slow)) for _ in range(pairs + 5)][5:]
    deployed, dense = zip(*turns, strict=True)
    return {
        'deployed': median(deployed),
        'dense': median(dense),
        'ratio': median(d / s for d, s in turns),
    }


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


# Key of a row, what it is called, digits behind the point, scale.
FIGURES = (
    ('flops', 'FLOPs for an image (M)', 2, 1e-6),
    ('parameters', 'parameters (k)', 1, 1e-3),
    ('processor', 'training (processor seconds)', 0, 1.0),
    ('latency', '32 images on the CPU (ms)', 1, 1e3),
)


def print_tables(results: Sequence[dict[str, Any]]) -> None:
    """Prints all results, the mean over seeds where there are several."""
    for title in dict.fromkeys(r['title'] for r in results):
        same = [r for r in results if r['title'] == title]
        CONSOLE.print(comparison(title, same))
    CONSOLE.print(
        'For the metric the last column is the difference, deployed less '
        'dense; for a cost what is left of it: 0.40 is 40 %. Training is the '
        'whole run of the program, pruning included.\n'
    )


def comparison(title: str, same: Sequence[dict[str, Any]]) -> Table:
    """The table of one task, over all its seeds."""
    table = Table(title=f'{title}: dense against deployed')
    table.add_column('', no_wrap=True)
    for column in ('dense', 'deployed', 'deployed / dense'):
        table.add_column(column, justify='right', no_wrap=True)
    for row in metric_rows(same):
        table.add_row(*row)
    table.add_section()
    for key, label, digits, scale in FIGURES:
        dense, small = means(same, key)
        ratio = small / dense
        if key == 'latency':  # taken turn by turn
            ratio = mean(r['latency_ratio'] for r in same)
        numbers = (f'{n * scale:.{digits}f}' for n in (dense, small))
        table.add_row(label, *numbers, f'{ratio:.2f}')
    table.add_section()
    for group, (wide, left) in same[0]['widths'].items():
        name = group.removeprefix('backbone.')
        table.add_row(
            f'channels of {name}', str(wide), f'{wide} → {left}',
            f'{left / wide:.2f}',
        )  # fmt: skip
    return table


def metric_rows(same: Sequence[dict[str, Any]]) -> Iterator[Sequence[str]]:
    """The metric, and how far its seeds are apart."""
    (task,) = (t for t in TASKS.values() if t.title == same[0]['title'])
    digits = task.digits
    dense, small = means(same, 'metric')
    yield (
        task.label, f'{dense:.{digits}f}', f'{small:.{digits}f}',
        f'{small - dense:+.{digits}f}',
    )  # fmt: skip
    if len(same) > 1:
        spreads = (
            spread((r['rows'][i]['metric'] for r in same), digits)
            for i in (0, 1)
        )
        yield f'  lowest to highest of {len(same)} seeds', *spreads, ''


def means(same: Sequence[dict[str, Any]], key: str) -> tuple[float, float]:
    """A figure of the dense and of the deployed network, over all seeds."""
    dense, small = (mean(r['rows'][i][key] for r in same) for i in (0, 1))
    return dense, small


def spread(values: Iterable[float], digits: int) -> str:
    """Lowest to highest."""
    ordered = sorted(values)
    return f'{ordered[0]:.{digits}f} to {ordered[-1]:.{digits}f}'


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
        draw_groups(left, result)
        draw_flops(right, result)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_groups(axes: Any, result: dict[str, Any]) -> None:
    """Draws what is kept of every group as bars."""
    keep = result['history']['keep']
    names = [name.removeprefix('backbone.') for name in keep]
    axes.bar(names, keep.values(), color='tab:blue')
    axes.set_ylim(0, 1)
    axes.set_ylabel('kept channels')
    axes.set_title(f'{result["title"]}: channel groups')
    axes.tick_params(axis='x', rotation=60)
    # A name ends below its bar, not in the middle of it.
    for label in axes.get_xticklabels():
        label.set_horizontalalignment('right')
        label.set_rotation_mode('anchor')


def draw_flops(axes: Any, result: dict[str, Any]) -> None:
    """Draws FLOPs over training, and what was asked for."""
    for name, style in (('flops', '-'), ('target', '--')):
        steps, values = zip(*result['history'][name], strict=True)
        label = 'network' if name == 'flops' else name
        axes.plot(steps, values, style, label=label)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel('iteration')
    axes.set_ylabel('FLOPs over dense FLOPs')
    axes.set_title('FLOPs over training')
    axes.legend()


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--only', choices=list(TASKS))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument(
        '--resume',
        action='store_true',
        help='do not repeat what a demo that was stopped had finished',
    )
    return parser.parse_args()


def run_all(args: argparse.Namespace) -> None:
    """Runs all tasks and prints their tables."""
    started = time.perf_counter()
    folders = [
        (name, (args.out / name / f'seed{seed}').resolve(), seed)
        for name in TASKS
        if args.only in (None, name)
        for seed in args.seeds
    ]
    results = [run_or_read(*folder, args.resume) for folder in folders]
    print_tables(results)
    draw(results, args.out / 'demo.png')
    report = args.out / 'results.json'
    replace_text(report, f'{json_text(results, 1)}\n')
    if args.only is None:
        # The demo has come to its end: the next one begins anew.
        for _, folder, _ in folders:
            (folder / 'result.json').unlink()
    CONSOLE.print(
        f'{time.perf_counter() - started:.0f} s; results in {report}, '
        f'pictures in {args.out / "demo.png"}'
    )


@known_notes_hidden()
def main() -> None:
    """Runs the demo, each program on one thread."""
    args = parse_args()
    if 'OMP_NUM_THREADS' not in os.environ:
        os.environ['OMP_NUM_THREADS'] = '1'  # of the tools
        torch.set_num_threads(1)  # of this one
    try:
        run_all(args)
    except KeyboardInterrupt:
        raise SystemExit('Interrupted: start it again to go on') from None


if __name__ == '__main__':
    main()
