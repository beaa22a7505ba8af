# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Wall time of a whole run of LAPP over that of the dense run, end to end.

    python benchmarks/run_time.py DATA --json run_time.json
    python benchmarks/run_time.py DATA --threads 2 --repeats 3

``DATA`` holds ``train/`` and ``test/`` with a folder of images per class.
The dense ResNet-18 of mmpretrain and the recipe of ``configs/resnet`` are
trained by ``tools/train.py`` in turns, start of the program, data, validation
and checkpoints included. As in the recipe the phase is a twentieth of the run;
images are fewer and smaller than those of ImageNet. The recipe leaves residual
streams whole; ``lapp-streams`` may narrow them as well, ``lapp-even`` does: it
leaves the task loss out of its thresholds, so that all groups keep the same
share.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools'))

from demo import call  # noqa: E402

from mmlapp.core.files import replace_text  # noqa: E402

RECIPE = str(
    ROOT / 'configs' / 'resnet' / 'lapp-flops44_resnet18_8xb32_in1k.py'
)
# What is changed of the recipe, by run.
SETTINGS: dict[str, dict[str, Any]] = {
    'lapp': {},
    'lapp-streams': {'keep_streams': False},
    'lapp-even': {
        'keep_streams': False,
        'method': {
            'type': 'lapp',
            'update': {'type': 'balance', 'task_weight': 0},
        },
    },
}
CONFIGS = {
    'dense': 'mmpretrain::resnet/resnet18_8xb32_in1k.py',
    **dict.fromkeys(SETTINGS, RECIPE),
}
EPOCHS = 20
PHASE = 1  # epoch: 5 of the recipe's 100


def config_of(name: str, args: argparse.Namespace) -> str:
    """The config of a run, as text."""
    pipeline = [
        {'type': 'LoadImageFromFile'},
        {'type': 'Resize', 'scale': (args.size, args.size)},
        {'type': 'PackInputs'},
    ]
    images = args.batch * args.steps
    lines = [
        f'_base_ = {CONFIGS[name]!r}',
        f'train_cfg = dict(max_epochs={EPOCHS}, val_interval={EPOCHS})',
        f'default_hooks = dict(checkpoint=dict(interval={EPOCHS}))',
        'randomness = dict(seed=0)',
        loader('train', images, args, pipeline),
        loader('val', args.batch, args, pipeline),
    ]
    if name in SETTINGS:
        model = {'input_shape': (3, args.size, args.size), **SETTINGS[name]}
        lines += [
            f'model = {model!r}',
            "custom_hooks = [dict(type='mmlapp.PruningHook', "
            f'target=dict(flops=0.444), prune_epochs={PHASE})]',
        ]
    return '\n'.join(lines) + '\n'


def loader(
    kind: str,
    images: int,
    args: argparse.Namespace,
    pipeline: Sequence[dict[str, Any]],
) -> str:
    """One data loader's lines of a config: every n-th image of a folder."""
    folder = {'train': 'train', 'val': 'test'}[kind]
    found = sum(
        1 for path in (args.data / folder).rglob('*') if path.is_file()
    )
    if found < images:
        raise SystemExit(
            f'{args.data / folder} holds {found} images, of {images} that '
            '--batch and --steps ask for.'
        )
    data = {
        '_delete_': True,
        'type': 'CustomDataset',
        'data_root': str(args.data.resolve()),
        'data_prefix': folder,
        'indices': list(range(0, found, found // images))[:images],
        'pipeline': list(pipeline),
    }
    return (
        f'{kind}_dataloader = dict(batch_size={args.batch}, num_workers=0, '
        f'persistent_workers=False, dataset={data!r})'
    )


def train(name: str, folder: Path, args: argparse.Namespace) -> float:
    """Trains once from nothing; returns the seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / f'{name}.py'
    config.write_text(config_of(name, args))
    return call(
        'train.py', config, '--work-dir', folder / 'run',
        log=folder / 'train.log',
    ).seconds  # fmt: skip


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Runs all in turns and tells seconds and ratios."""
    os.environ['OMP_NUM_THREADS'] = str(args.threads)
    seconds: dict[str, list[float]] = {name: [] for name in CONFIGS}
    for repeat in range(args.repeats):
        # Every other time the last one begins: drift meets all.
        for name in sorted(CONFIGS, reverse=repeat % 2 == 1):
            took = train(name, args.work_dir / name, args)
            seconds[name].append(took)
            print(name, f'{took:.0f} s', flush=True)
    ratios = {
        name: [
            lapp / dense
            for lapp, dense in zip(
                seconds[name], seconds['dense'], strict=True
            )
        ]
        for name in SETTINGS
    }
    return {
        'network': 'ResNet-18',
        'flops': 0.444,
        'phase': PHASE / EPOCHS,
        'iterations': EPOCHS * args.steps,
        'batch': args.batch,
        'size': args.size,
        'threads': args.threads,
        'torch': torch.__version__,
        'machine': platform.machine(),
        'seconds': seconds,
        'ratios': ratios,
        'ratio': {name: median(found) for name, found in ratios.items()},
    }


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    add = parser.add_argument
    add('data', type=Path, metavar='DATA', help='train/ and test/ of images')
    add('--size', type=int, default=112, help='of the images (default: 112)')
    add('--batch', type=int, default=32)
    add('--steps', type=int, default=20, help='in an epoch (default: 20)')
    add('--threads', type=int, default=2)
    add('--repeats', type=int, default=1)
    add('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'run_time')
    add('--json', type=Path, metavar='FILE', help='where the numbers go')
    return parser.parse_args(argv)


def main() -> None:
    """Measures, tells, and keeps the numbers."""
    args = parse_args()
    numbers = measure(args)
    for name, ratio in numbers['ratio'].items():
        print(
            f'{name}, ResNet-18 at 44.4 % of the FLOPs: the whole run takes '
            f'{ratio:.2f} of the dense run'
        )
    if args.json:
        replace_text(args.json, json.dumps(numbers, indent=1) + '\n')


if __name__ == '__main__':
    main()
