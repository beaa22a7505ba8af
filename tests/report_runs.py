# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Folders of runs as MMEngine and our tools leave them, without training."""

import json
from types import SimpleNamespace

from mmlapp.engine.benchmark.report import to_dict
from mmlapp.engine.benchmark.rows import Row

HEAD = {
    'kind': 'run',
    'version': 1,
    'iter': 0,
    'max_iters': 40,
    'unit': 'channels',
    'settings': {
        'method': {'type': 'lapp', 'update': 'balance'},
        'score': 'l2',
        'normalisation': 'rank',
    },
    'groups': [['stem', 8], ['<b>&', 4]],
    'layers': [['stem', 3, 8], ['<b>&', 8, 4], ['depth', None, 4]],
    'frozen': [['head', 10, 'output of the <network>']],
}


def state(place, kept, phase='pruning', begin=0):
    """What is noted when so many channels of both groups are left."""
    a, b = kept
    return {
        'kind': 'state',
        'iter': place,
        'phase': phase,
        'done': place - begin,
        'steps': 20,
        'ratios': {'flops': a / 8, 'parameters': 0.9},
        'targets': {'flops': 1 - (place - begin) / 40},
        'shown': {'threshold': [place / 20, None]},
        'scores': [[0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]] * 2,
        'kept': [a, b],
        'widths': [[3, a], [a, b], [None, b]],
    }


PHASE = [
    state(0, (8, 4)),
    state(10, (6, 4)),
    state(20, (5, 1), 'finished'),
]


def training(first, last, every=5, epoch=10):
    """Rows of training; the loss is 1 over the iteration."""
    return [
        {
            'lr': 0.1,
            'loss': 1 / i,
            'loss_cls': 0.5 / i,
            'time': 0.1,
            'epoch': (i - 1) // epoch + 1,
            'iter': i,
            'step': i,
        }
        for i in range(first, last + 1)
        if i % every == 0
    ]


def validation(epoch, value):
    return {'accuracy/top1': value, 'time': 0.1, 'step': epoch}


def start(work_dir, name, rows=(), records=(), tail='', log=()):
    """Writes what one process logged, and half a line more."""
    folder = work_dir / name
    if log:
        folder.mkdir()
        lines = (f'2026/01/01 00:00:00 - mmengine - {line}\n' for line in log)
        (folder / f'{name}.log').write_text(''.join(lines))
    for path, entries in (
        (folder / 'vis_data' / 'scalars.json', rows),
        (folder / 'pruning.jsonl', records),
    ):
        if entries:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = ''.join(json.dumps(entry) + '\n' for entry in entries)
            path.write_text(lines + tail)


def benchmark(path, **changed):
    """Writes what ``tools/benchmark.py --json`` does, with other entries."""
    dense = Row(
        'dense',
        'torch',
        status='ok',
        megabytes=1.0,
        parameters=270_000,
        macs=10**7,
        share=1.0,
        error=0.0,
        agreement=1.0,
        median=0.014,
        p90=0.0142,
        images_per_second=72.0,
        speed_up=1.0,
        factor=1.0,
    )
    slim = Row(
        'slim',
        'torch',
        status='ok',
        megabytes=0.4,
        parameters=98_522,
        macs=4 * 10**6,
        share=0.4,
        error=1e-7,
        agreement=1.0,
        # Times that differ this much allow no claim.
        median=0.003,
        p90=0.014,
        images_per_second=369.4,
    )
    setting = SimpleNamespace(
        described=lambda: {
            'device': '<CPU>',
            'backend': 'torch',
            'threads': 2,
            'batch': 1,
            'versions': {'torch': '2.10.0'},
        }
    )
    data = to_dict([dense, slim], [setting], ['random <weights>'], None, {})
    path.write_text(json.dumps({**data, **changed}))
