# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Networks at random: from a seed to blocks, from blocks to source."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .blocks import BLOCKS
from .modules import Computed, Holding, Own, Standardising
from .writer import MAP, TOKENS, VECTOR, Writer

MOST_BLOCKS = 8
# Of inputs that are indices: how many different ones.
WORDS = 11
NAMES = {
    'torch': torch,
    'nn': nn,
    'functional': functional,
    'checkpoint': checkpoint,
    'Computed': Computed,
    'Holding': Holding,
    'Own': Own,
    'Standardising': Standardising,
}


@dataclass(frozen=True)
class Spec:
    """What a network is made of; the rest follows.

    Args:
        seed (int): Of widths, weights and inputs.
        start (str): What it reads, one of ``STARTS``.
        blocks (tuple[tuple[int, str], ...]): Number and name of each block.
            The number chooses its widths, so that they stay when other
            blocks go.
        end (str): What it returns, one of ``ENDS``.
    """

    seed: int
    start: str
    blocks: tuple[tuple[int, str], ...]
    end: str

    def without(self, position: int) -> Spec:
        """Returns the same with one block less."""
        rest = self.blocks[:position] + self.blocks[position + 1 :]
        return replace(self, blocks=rest)

    def __str__(self) -> str:
        names = ', '.join(name for _, name in self.blocks)
        return f'seed {self.seed}: {self.start} | {names} | {self.end}'


@dataclass
class Network:
    """A network that can be made again and again.

    Args:
        spec (Spec): Where it comes from.
        source (str): Its class, called ``Network``.
        shape (tuple[int, ...]): Of its input.
        words (bool): Whether the input holds indices.
        fixed (bool): Whether it runs on inputs of this size alone.
        unused (tuple[str, ...]): What nothing reads.
    """

    spec: Spec
    source: str
    shape: tuple[int, ...]
    words: bool
    fixed: bool
    unused: tuple[str, ...]

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers in training."""
        return any(t in self.source for t in ('ropout', 'torch.rand(len'))

    def build(self) -> nn.Module:
        """Makes the network in float64 and evaluation mode, as it begins."""
        names: dict[str, Any] = dict(NAMES)
        exec(compile(self.source, str(self.spec), 'exec'), names)
        torch.manual_seed(self.spec.seed)
        return names['Network']().double().eval()

    def example(self, number: int = 0, batch: int = 2, more: int = 0) -> Any:
        """Makes an input.

        Args:
            number (int): Another one for each number. Defaults to 0.
            batch (int): Its length. Defaults to 2.
            more (int): By how much its sizes differ. Defaults to 0.
        """
        generator = torch.Generator().manual_seed(self.spec.seed + number)
        # [c, *size] or [length, c]; vectors and words have one size.
        shape = list(self.shape)
        if len(shape) > 1 and not self.words:
            spatial = slice(1, None) if self.spec.start != TOKENS else slice(1)
            shape[spatial] = [s + more for s in shape[spatial]]
        if self.words:
            return torch.randint(WORDS, (batch, *shape), generator=generator)
        return torch.randn(
            batch, *shape, generator=generator, dtype=torch.float64
        )


def draw(seed: int) -> Spec:
    """Chooses the blocks of a network.

    Args:
        seed (int): The same one gives the same network.
    """
    rng = Random(seed)
    start = rng.choices(list(STARTS), [s[1] for s in STARTS.values()])[0]
    writer = Writer(Random(f'{seed} start'))
    STARTS[start][0](writer)
    blocks = []
    for number in range(rng.randint(2, MOST_BLOCKS)):
        fit = [
            name
            for name, block in BLOCKS.items()
            if writer.kind in block.kinds and block.since <= seed
        ]
        blocks.append((number, rng.choice(fit)))
        _write(writer, seed, *blocks[-1])
    return Spec(seed, start, tuple(blocks), rng.choice(list(ENDS)))


def _write(writer: Writer, seed: int, number: int, name: str) -> None:
    block = BLOCKS[name]
    if writer.kind in block.kinds:
        writer.rng = Random(f'{seed} {number}')
        writer(f'# {name}')
        block.write(writer)


def compose(spec: Spec) -> Network:
    """Writes a network down.

    Args:
        spec (Spec): Its blocks; those that do not fit behind what is left
            are left out.
    """
    writer = Writer(Random(f'{spec.seed} start'))
    shape = STARTS[spec.start][0](writer)
    for number, name in spec.blocks:
        _write(writer, spec.seed, number, name)
    writer.rng = Random(f'{spec.seed} end')
    writer('# end')
    returned = ENDS[spec.end](writer)
    lines = [
        'class Network(nn.Module):',
        '    def __init__(self):',
        '        super().__init__()',
        *(f'        {line}' for line in writer.parts),
        '',
        '    def forward(self, x):',
        *(f'        {line}' for line in writer.lines),
        f'        return {returned}',
    ]
    return Network(
        spec,
        '\n'.join(lines),
        shape,
        spec.start == 'words',
        writer.fixed,
        tuple(writer.unused),
    )


# What it reads.


def _map(nd: int):
    def start(w: Writer) -> tuple[int, ...]:
        w.nd, most = nd, {1: 9, 2: 8, 3: 4}[nd]
        w.size = tuple(w.rng.randint(4, most) for _ in range(nd))
        w.c = w.rng.randint(1, 4)
        shape = (w.c, *w.size)
        if w.chance(0.8):
            width = w.width()
            w(f'x = {w.conv(w.c, width, 3)}(x)')
            w.c = width
        return shape

    return start


def _tokens(w: Writer) -> tuple[int, ...]:
    w.kind, w.size, w.c = (
        TOKENS,
        (w.rng.choice((4, 6, 9)),),
        w.rng.randint(2, 6),
    )
    shape = (*w.size, w.c)
    w.to_width(w.width())
    return shape


def _words(w: Writer) -> tuple[int, ...]:
    w.kind, w.size, w.c = TOKENS, (w.rng.choice((4, 6)),), w.width()
    w.fixed = True
    more = w.one_of('', ', padding_idx=0')
    w(f'x = {w.part(f"nn.Embedding({WORDS}, {w.c}{more})")}(x)')
    return w.size


def _vectors(w: Writer) -> tuple[int, ...]:
    w.kind, w.size, w.c = VECTOR, (), w.rng.randint(2, 6)
    shape = (w.c,)
    w.to_width(w.width())
    return shape


# Name: what writes it, and how often it is chosen.
STARTS = {
    MAP: (_map(2), 10),
    'sequence': (_map(1), 2),
    'volume': (_map(3), 1),
    TOKENS: (_tokens, 3),
    'words': (_words, 2),
    VECTOR: (_vectors, 1),
}


# What it returns.


def _pooled(w: Writer) -> str:
    if w.kind != VECTOR:
        w(f'x = x.mean({w.space if w.kind == MAP else 1})')
        w.kind = VECTOR
    return _everything(w, f'{w.linear(w.c, w.rng.randint(1, 5))}(x)')


def _layer(w: Writer) -> str:
    return _everything(w, f'{w.layer(w.c, w.rng.randint(1, 5))}(x)')


def _flat(w: Writer) -> str:
    if w.kind == VECTOR or math.prod(w.size) > 100:
        return _pooled(w)
    w.fixed = True
    inputs = w.c * math.prod(w.size)
    return _everything(w, f'{w.linear(inputs, 3)}(x.flatten(1))')


def _features(w: Writer) -> str:
    return _everything(w, 'x')


def _everything(w: Writer, last: str) -> str:
    if not w.outputs:
        return w.one_of(last, last, f'[{last}]', f'{{"y": {last}}}')
    early = ', '.join(w.outputs)
    return w.one_of(
        f'({early}, {last})',
        f'[{last}, [{early}]]',
        f'{{"last": {last}, "early": ({early},)}}',
    )


ENDS = {
    'pooled': _pooled,
    'layer': _layer,
    'flat': _flat,
    'features': _features,
}


def random_state(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Returns weights as after training: no gate is near zero.

    Args:
        model (nn.Module): A network, not changed.
        seed (int): Of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor, std: float) -> Tensor:
        return (
            torch.randn(like.shape, generator=generator, dtype=like.dtype)
            * std
        )

    kept = {name for name, _ in model.named_buffers() if 'running' not in name}
    state = {}
    for name, value in model.state_dict().items():
        if name in kept or not value.is_floating_point():
            state[name] = value
        elif name.endswith('running_var'):
            state[name] = normal(value, 0.3).abs() + 0.5
        elif value.dim() > 1:
            fan = max(1, value.numel() // value.shape[0])
            state[name] = normal(value, fan**-0.5)
        elif name.endswith(('bias', 'running_mean')):
            state[name] = normal(value, 0.3)
        else:
            # Scales: 0.5 and more, of either sign.
            number = normal(value, 0.5)
            state[name] = number + 0.5 * number.sign()
    return state
