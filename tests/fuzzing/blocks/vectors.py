# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Layers of vectors."""

from ..writer import VECTOR, Writer, block


@block(VECTOR)
def highway(w: Writer) -> None:
    a, b = w.linear(w.c, w.c), w.linear(w.c, w.c)
    w(f't = {a}(x).sigmoid()')
    w(f'x = t * {b}(x).relu() + (1 - t) * x')


@block(VECTOR)
def bilinear(w: Writer) -> None:
    width, other = w.width(), w.width()
    layer = w.part(f'nn.Bilinear({w.c}, {other}, {width})')
    w(f'x = {layer}(x, {w.linear(w.c, other)}(x))')
    w.c = width


@block(VECTOR)
def cosine_head(w: Writer) -> None:
    width = w.width()
    layer = w.linear(w.c, width, 'bias=False')
    w(
        f'x = functional.linear(functional.normalize(x), functional.normalize({layer}.weight))'
    )
    w.c = width


@block(VECTOR)
def as_map(w: Writer) -> None:
    size = w.rng.randint(1, 3)
    width = w.width()
    w(
        f'x = {w.linear(w.c, width * size**2)}(x).view(-1, {width}, {size}, {size})'
    )
    w.kind, w.c, w.size, w.nd = 'map', width, (size, size), 2


@block(VECTOR)
def as_positions(w: Writer) -> None:
    w('x = x[:, :, None, None].expand(-1, -1, 2, 3)')
    w.kind, w.size, w.nd = 'map', (2, 3), 2


@block(VECTOR)
def as_tokens(w: Writer) -> None:
    parts = w.rng.choice((2, 3))
    width = w.width()
    w(f'x = {w.linear(w.c, width * parts)}(x).view(len(x), {parts}, {width})')
    w.kind, w.c, w.size = 'tokens', width, (parts,)


@block(VECTOR)
def mixed_in_batch(w: Writer) -> None:
    q = w.linear(w.c, w.c)
    w(f'x = ({q}(x) @ x.t()).softmax(-1) @ x')
