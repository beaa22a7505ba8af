# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Time of every convolution of a narrowed network, and of one built narrow.

    python benchmarks/layer_time.py ResNet-18 --divisor 1 16

Where a narrow step takes more of the dense one's time than of its FLOPs, this
tells why: forward and backward of each layer alone, at the size at which the
network runs it, in turns of the dense layer, of the narrowed one and of a new
``Conv2d`` of the same widths, which owes nothing to pruning.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from step_time import CASES, narrowed
from torch import Tensor, nn

from mmlapp.core.files import replace_text

KINDS = 'dense', 'narrowed', 'direct'


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
    """A new layer with the widths of a narrowed one."""
    new = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        conv.bias is not None,
    )
    return new.to(memory_format=torch.channels_last)


def make_run(conv: nn.Module, shape: torch.Size) -> Callable[[], float]:
    """Returns a forward and backward of a layer that returns its seconds."""
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    gradient = torch.randn_like(conv(x))

    def run() -> float:
        started = time.perf_counter()
        conv(x).backward(gradient)
        seconds = time.perf_counter() - started
        x.grad = None
        conv.zero_grad()
        return seconds

    return run


def measure(name: str, turns: int, divisor: int) -> list[dict[str, Any]]:
    """Times all convolutions of one network; three turns warm up."""
    build, shape, target = CASES[name]
    torch.manual_seed(0)
    images = torch.randn(shape)
    images = images.contiguous(memory_format=torch.channels_last)
    dense = build().to(memory_format=torch.channels_last)
    slim = narrowed(dense, images, target, divisor)
    wide, small = input_shapes(dense, images), input_shapes(slim, images)
    rows = []
    for layer, shape_in in wide.items():
        before, after = dense.get_submodule(layer), slim.get_submodule(layer)
        assert isinstance(after, nn.Conv2d)
        runs = [
            make_run(before, shape_in),
            make_run(after, small[layer]),
            make_run(direct(after), small[layer]),
        ]
        timed = [[run() for run in runs] for _ in range(turns + 3)][3:]
        medians = map(statistics.median, zip(*timed, strict=True))
        rows.append(
            {
                'layer': layer,
                'widths': [shape_in[1], before.out_channels],
                'narrow_widths': [small[layer][1], after.out_channels],
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
    dense, narrow, built = (sum(row[kind] for row in rows) for kind in KINDS)
    lines.append(f'| all | | | | {narrow / dense:.2f} | {built / dense:.2f} |')
    return '\n'.join(lines)


def main() -> None:
    """Prints one table per divisor."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('network', choices=list(CASES))
    parser.add_argument('--turns', type=int, default=15)
    parser.add_argument('--divisor', type=int, nargs='+', default=[1])
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    results = {}
    for divisor in args.divisor:
        rows = measure(args.network, args.turns, divisor)
        results[f'{args.network}, divisor {divisor}'] = rows
        print(f'{args.network}, multiples of {divisor}\n\n{table(rows)}\n')
    if args.json:
        replace_text(args.json, json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
    main()
