# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Writes the source of a network, one block after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import NamedTuple

ACTIVATIONS = (
    '{}.relu()',
    'functional.gelu({})',
    'functional.silu({})',
    '{}.tanh()',
    '{}.sigmoid()',
    'functional.leaky_relu({}, 0.1)',
    'functional.hardswish({})',
    'functional.softplus({})',
)
# What `x` is: [n, c, *size], [n, length, c] or [n, c].
KINDS = MAP, TOKENS, VECTOR = 'map', 'tokens', 'vector'


class Writer:
    """What has been written so far, and what ``x`` is at this point.

    Args:
        rng (Random): Chooses widths and variants.

    Attributes:
        c (int): Number of channels of ``x``.
        kind (str): Which dimensions it has.
        size (tuple[int, ...]): Those behind the channels, or the length.
        nd (int): Number of spatial dimensions of maps.
        fixed (bool): Whether other sizes than this do not run.
        outputs (list[str]): What the network returns beside ``x``.
        unused (list[str]): Children and parameters that nothing reads.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.parts: list[str] = []
        self.lines: list[str] = []
        self.outputs: list[str] = []
        self.unused: list[str] = []
        self.c, self.kind, self.size, self.nd = 0, MAP, (), 2
        self.fixed = False
        self._count = 0

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    # Parts and lines.

    def part(self, code: str) -> str:
        """Adds a child, a parameter or an attribute; returns its name."""
        self._count += 1
        name = f'self.p{self._count}'
        self.parts.append(f'{name} = {code}')
        return name

    def after(self, code: str) -> None:
        """Adds a line behind the parts."""
        self.parts.append(code)

    def buffer(self, code: str) -> str:
        """Adds a buffer."""
        self._count += 1
        name = f'b{self._count}'
        self.parts.append(f"self.register_buffer('{name}', {code})")
        return f'self.{name}'

    def parameter(self, *shape: int) -> str:
        """Adds a bare parameter."""
        return self.part(f'nn.Parameter(torch.randn({shape}))')

    def leave_unused(self, name: str) -> None:
        """Notes that nothing reads a child, a parameter or one of its."""
        self.unused.append(name.removeprefix('self.'))

    # Layers.

    def conv(
        self, inputs: int, outputs: int, kernel: int = 0, more: str = ''
    ) -> str:
        """Adds a convolution that keeps the size."""
        kernel = kernel or self.rng.choice((1, 3))
        padding = f', padding={kernel // 2}' if kernel > 1 else ''
        more = more and f', {more}'
        if 'bias' not in more and self.rng.random() < 0.4:
            more += ', bias=False'
        return self.part(
            f'nn.Conv{self.nd}d({inputs}, {outputs}, {kernel}{padding}{more})'
        )

    def linear(self, inputs: int, outputs: int, more: str = '') -> str:
        """Adds a linear layer."""
        return self.part(
            f'nn.Linear({inputs}, {outputs}{more and f", {more}"})'
        )

    def layer(self, inputs: int, outputs: int) -> str:
        """Adds a layer for whatever ``x`` is."""
        if self.kind == MAP:
            return self.conv(inputs, outputs)
        return self.linear(inputs, outputs)

    def norm(self, channels: int) -> str:
        """Adds a batch norm, for tokens a layer norm."""
        if self.kind == TOKENS:
            return self.part(f'nn.LayerNorm({channels})')
        nd = self.nd if self.kind == MAP else 1
        return self.part(f'nn.BatchNorm{nd}d({channels})')

    # Choices.

    def chance(self, share: float = 0.5) -> bool:
        """Whether something that happens now and then happens."""
        return self.rng.random() < share

    def width(self, multiple: int = 1) -> int:
        """Returns a number of channels, 2 to 24."""
        most = 24 // multiple
        return multiple * self.rng.randint(1 if multiple > 1 else 2, most)

    def part_of(self, number: int) -> int:
        """Returns a width from 1 to below a number."""
        return self.rng.randint(1, max(1, number - 1))

    def divisor(self, number: int | None = None) -> int:
        """Returns a divisor, not 1 if there is another one up to 8."""
        number = self.c if number is None else number
        found = [d for d in range(2, 9) if number % d == 0]
        return self.rng.choice(found) if found else 1

    def one_of(self, *choices: str) -> str:
        """Returns one of several variants."""
        return self.rng.choice(choices)

    def act(self, value: str) -> str:
        """Returns an activation of a value."""
        return self.rng.choice(ACTIVATIONS).format(value)

    # What `x` is.

    @property
    def dim(self) -> int:
        """Dimension of the channels."""
        return 1 if self.kind == MAP else -1

    @property
    def space(self) -> tuple[int, ...]:
        """Dimensions of space."""
        return tuple(range(2, 2 + self.nd))

    @property
    def ones(self) -> str:
        """Shape that lets ``[c]`` be multiplied with ``x``."""
        if self.kind != MAP:
            return '-1'
        return ', '.join(['1', '-1', *('1' for _ in self.size)])

    @property
    def positions(self) -> int:
        """Number of positions in space."""
        return math.prod(self.size)

    def to_width(self, width: int) -> None:
        """Makes the number of channels another one, with a layer."""
        if width != self.c:
            self(f'x = {self.layer(self.c, width)}(x)')
            self.c = width

    def to_multiple(self, multiple: int) -> None:
        """Makes the number of channels a multiple of something."""
        if self.c % multiple:
            self.to_width(self.width(multiple))


Write = Callable[[Writer], None]


class Block(NamedTuple):
    """A way to write some lines.

    Args:
        kinds (tuple[str, ...]): What ``x`` may be.
        write (Callable): Writes them.
        since (int): First seed that draws it.
    """

    kinds: tuple[str, ...]
    write: Write
    since: int


BLOCKS: dict[str, Block] = {}


def block(*kinds: str, since: int = 0) -> Callable[[Write], Write]:
    """Adds a block to the table, under the name of its function.

    Args:
        *kinds (str): What ``x`` may be; none: anything.
        since (int): First seed that draws it: a seed names the same network
            for good, whatever is added later. Defaults to 0.
    """

    def add(write: Write) -> Write:
        assert write.__name__ not in BLOCKS
        BLOCKS[write.__name__] = Block(kinds or KINDS, write, since)
        return write

    return add
