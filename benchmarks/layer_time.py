# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Time of every convolution of a narrowed network, and of one built narrow.

    python benchmarks/layer_time.py ResNet-18 --divisor 1 16
    python benchmarks/layer_time.py ResNet-18 --unit stripes --forward

Where a narrow step takes more of the dense one's time than of its FLOPs, this
tells why: forward and backward of each layer alone, at the size at which the
network runs it, in turns of the dense layer, of the narrowed one and of a new
``Conv2d`` of the same widths, which owes nothing to pruning. Of a layer that
lost stripes it is one with as many multiply-adds in fewer whole filters.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from step_time import CASES, narrowed, now
from torch import Tensor, nn

from mmlapp.core.files import replace_text
from mmlapp.core.units.striped import Striped

KINDS = 'dense', 'narrowed', 'direct'


@dataclass(frozen=True)
class Way:
    """How layers are run.

    Args:
        forward (bool): Whether without the backward. Defaults to False.
        device (str): Where. Defaults to ``cpu``.
        memory (torch.memory_format): Of images and weights. Defaults to
            ``channels_last``.
        processor (bool): Whether the time of the processor counts and not
            that of the clock, for machines that do other things, too.
            Defaults to False.
    """

    forward: bool = False
    device: str = 'cpu'
    memory: torch.memory_format = torch.channels_last
    processor: bool = False

    def now(self) -> float:
        """Seconds of the clock or of the processor."""
        return time.process_time() if self.processor else now(self.device)


def input_shapes(model: nn.Module, images: Tensor) -> dict[str, torch.Size]:
    """What every convolution reads, by name."""
    shapes: dict[str, torch.Size] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            shapes[name] = args[0].shape

        return hook

    handles = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return shapes


def direct(conv: nn.Conv2d) -> nn.Conv2d:
    """A new layer with the widths, or the multiply-adds, of a narrowed one."""
    # Filters, of which there may be fewer than channels that it emits.
    outputs = len(conv.weight)
    if isinstance(conv, Striped):
        outputs = max(1, round(len(conv.weight) / math.prod(conv.kernel_size)))
    new = nn.Conv2d(
        conv.in_channels,
        outputs,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        conv.bias is not None,
    )
    return new


def make_run(
    conv: nn.Module, shape: torch.Size, way: Way
) -> Callable[[], float]:
    """Returns a run of a layer that returns its seconds."""
    conv.to(way.device, memory_format=way.memory)
    x = torch.randn(shape, device=way.device)
    x = x.contiguous(memory_format=way.memory).requires_grad_()
    gradient = torch.randn_like(conv(x))

    def run() -> float:
        started = way.now()
        with torch.set_grad_enabled(not way.forward):
            y = conv(x)
        if not way.forward:
            y.backward(gradient)
        seconds = way.now() - started
        x.grad = None
        conv.zero_grad()
        return seconds

    return run


def measure(
    name: str,
    turns: int,
    divisor: int,
    unit: str = 'channels',
    way: Way = Way(),
    batch: int | None = None,
) -> list[dict[str, Any]]:
    """Times all convolutions of one network; three turns warm up."""
    build, shape, target = CASES[name]
    torch.manual_seed(0)
    images = torch.randn(batch or shape[0], *shape[1:])
    dense = build()
    slim = narrowed(dense, images, target, divisor, unit)
    wide, small = input_shapes(dense, images), input_shapes(slim, images)
    rows = []
    for layer, shape_in in wide.items():
        before, after = dense.get_submodule(layer), slim.get_submodule(layer)
        assert isinstance(after, nn.Conv2d)
        runs = [
            make_run(before, shape_in, way),
            make_run(after, small[layer], way),
            make_run(direct(after), small[layer], way),
        ]
        timed = [[run() for run in runs] for _ in range(turns + 3)][3:]
        medians = map(statistics.median, zip(*timed, strict=True))
        rows.append(
            {
                'layer': layer,
                'widths': [shape_in[1], before.out_channels],
                'narrow_widths': [small[layer][1], after.out_channels],
                'stripes': isinstance(after, Striped),
                'flops_ratio': after.weight.numel() / before.weight.numel(),
                **dict(zip(KINDS, medians, strict=True)),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per layer and the sums."""
    lines = [
        '| convolution | widths | narrowed | FLOPs | time | time, built so |',
        '| :-- | --: | --: | --: | --: | --: |',
    ]
    for row in rows:
        wide, narrow = (
            ' to '.join(map(str, row[key]))
            for key in ('widths', 'narrow_widths')
        )
        lines.append(
            f'| {row["layer"]} | {wide} | {narrow} | '
            f'{row["flops_ratio"]:.2f} | {row["narrowed"] / row["dense"]:.2f} '
            f'| {row["direct"] / row["dense"]:.2f} |'
        )
    for title, some in (
        ('with stripes', [row for row in rows if row['stripes']]),
        ('all', rows),
    ):
        dense, narrow, built = (sum(r[kind] for r in some) for kind in KINDS)
        if some:
            lines.append(
                f'| {title} | | | | {narrow / dense:.2f} | '
                f'{built / dense:.2f} |'
            )
    return '\n'.join(lines)


def main() -> None:
    """Prints one table per divisor."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('network', choices=list(CASES))
    parser.add_argument('--turns', type=int, default=15)
    parser.add_argument('--divisor', type=int, nargs='+', default=[1])
    parser.add_argument('--unit', default='channels')
    parser.add_argument('--batch', type=int)
    parser.add_argument('--forward', action='store_true', help='no backward')
    parser.add_argument('--contiguous', action='store_true')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--processor', action='store_true', help='its time')
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    memory = torch.contiguous_format if args.contiguous else Way.memory
    way = Way(args.forward, args.device, memory, args.processor)
    results = {}
    for divisor in args.divisor:
        rows = measure(
            args.network, args.turns, divisor, args.unit, way, args.batch
        )
        name = f'{args.network}, divisor {divisor}'
        if args.unit != 'channels':
            name = f'{name}, {args.unit}'
        results[name] = rows
        print(f'{name}\n\n{table(rows)}\n')
    if args.json:
        replace_text(args.json, json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
    main()
