# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Digits runs in every way of training: to the end, deployed, evaluated.

    python benchmarks/variants.py --json variants.json
    python benchmarks/variants.py --tasks classification --variants ddp amp

Each run keeps its batch of the base config: two processes or two accumulated
steps share it. What is finished in ``--work-dir`` is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools'))

from demo import TASKS, Task, call, score  # noqa: E402
from former import ALL_GROUPS  # noqa: E402

from mmlapp.core import ChannelPlan  # noqa: E402
from mmlapp.core.files import replace_text  # noqa: E402

EMA = """
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', momentum=0.01),
]
"""


# Of the recipes when these were run.
MODEL = {'divisor': 1, **ALL_GROUPS}


@dataclass(frozen=True)
class Variant:
    """What is different from a plain run.

    Args:
        processes (int): How many train together. Defaults to 1.
        share (int): Parts of the base config's batch. Defaults to 1.
        text (str): More lines of the config. Defaults to none.
        options (tuple[str, ...]): More arguments of ``tools/train.py``.
    """

    processes: int = 1
    share: int = 1
    text: str = ''
    options: tuple[str, ...] = field(default=())


VARIANTS = {
    'plain': Variant(),
    'ddp': Variant(processes=2, share=2),
    'amp': Variant(options=('--amp',)),
    'accumulation': Variant(
        share=2, text='optim_wrapper = dict(accumulative_counts=2)\n'
    ),
    'ema': Variant(text=EMA),
    'all': Variant(
        processes=2,
        share=4,
        text='optim_wrapper = dict(accumulative_counts=2)\n' + EMA,
        options=('--amp',),
    ),
}


def write_config(task: Task, variant: Variant, path: Path) -> None:
    """A config that inherits the pruned one of the demo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    base = ROOT / task.pruned
    batch = f'_base_.train_dataloader.batch_size // {variant.share}'
    path.write_text(
        f"_base_ = '{base}'\n"
        'randomness = dict(seed=0)\n'
        f'train_dataloader = dict(batch_size={batch})\n'
        f'model = {MODEL!r}\n{variant.text}'
    )


def train(config: Path, folder: Path, variant: Variant) -> None:
    """Trains with the launcher that a user would take."""
    arguments = ['--work-dir', folder, '--resume', *variant.options]
    script = 'train.py'
    if variant.processes > 1:
        script, arguments = 'dist_train.sh', [variant.processes, *arguments]
    call(script, config, *arguments, log=folder / 'train.log')


def run(task: Task, variant: Variant, folder: Path) -> Any:
    """Trains, deploys and evaluates one variant, or reads its result."""
    result = folder / 'result.json'
    if result.exists():
        return json.loads(result.read_text())
    config = folder.with_suffix('.py')
    write_config(task, variant, config)
    train(config, folder, variant)
    checkpoint = (folder / 'last_checkpoint').read_text().strip()
    deployed = folder / 'deployed'
    call(
        'deploy.py', config, checkpoint, deployed, '--force',
        log=folder / 'deploy.log',
    )  # fmt: skip
    small = deployed / config.name
    plan = ChannelPlan.load(small.with_suffix('.plan.json'))
    metric = score(
        small, small.with_suffix('.pth'), folder / 'test', task.metric
    )
    row = {task.metric: metric, 'flops': plan.ratios()['flops']}
    replace_text(result, json.dumps(row) + '\n')
    return row


def main() -> None:
    """Prints a line per run."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--tasks', nargs='+', choices=list(TASKS), default=list(TASKS)
    )
    parser.add_argument(
        '--variants', nargs='+', choices=list(VARIANTS), default=list(VARIANTS)
    )
    parser.add_argument(
        '--work-dir', type=Path, default=ROOT / 'work_dirs' / 'variants'
    )
    parser.add_argument('--port', default='29500', help='for two processes')
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    os.environ.update(PYTHON=sys.executable, PORT=args.port)
    rows: dict[str, dict[str, Any]] = {}
    for task in args.tasks:
        for name in args.variants:
            row = run(
                TASKS[task],
                VARIANTS[name],
                args.work_dir.resolve() / task / name,
            )
            rows.setdefault(task, {})[name] = row
            print(task, name, row, flush=True)
    if args.json:
        replace_text(args.json, json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
    main()
