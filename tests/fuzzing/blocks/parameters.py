# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Bare parameters and buffers, of every shape."""

from ..writer import MAP, TOKENS, Writer, block


@block(MAP)
def scale_of_shape(w: Writer) -> None:
    ones = [1] * len(w.size)
    shapes = [(1, w.c, *ones), (w.c, *ones), (1,), (1, 1, *ones), ()]
    w(f'x = x * {w.parameter(*w.rng.choice(shapes))}')
    if w.chance():
        w(f'x = x + {w.parameter(*w.rng.choice(shapes))}')


@block(MAP)
def scale_per_position(w: Writer) -> None:
    w.fixed = True
    shape = w.rng.choice([(w.c, *w.size), w.size, (1, w.c, *w.size)])
    w(f'x = x + {w.parameter(*shape)}')


@block()
def scale_viewed(w: Writer) -> None:
    scale = w.parameter(w.c)
    w(f'x = x * {scale}.view({w.ones})')
    if w.kind == MAP and w.chance():
        index = ', '.join(['None', ':', *('None' for _ in w.size)])
        w(f'x = x + {w.parameter(w.c)}[{index}]')


@block()
def layer_scale(w: Writer) -> None:
    scale = w.part(f'nn.Parameter(torch.full(({w.c},), 1e-5))')
    middle = w.width()
    a, b = w.layer(w.c, middle), w.layer(middle, w.c)
    w(f'x = x + {scale}.view({w.ones}) * {b}({w.act(f"{a}(x)")})')


@block()
def rezero(w: Writer) -> None:
    scale = w.part('nn.Parameter(torch.zeros(1))')
    middle = w.width()
    a, b = w.layer(w.c, middle), w.layer(middle, w.c)
    w(f'x = x + {scale} * {b}({w.act(f"{a}(x)")})')


@block()
def buffer_per_channel(w: Writer) -> None:
    value = w.buffer(f'torch.rand({w.c}) + 0.5')
    w(
        w.one_of(
            f'x = x * {value}.view({w.ones})',
            f'x = x - {value}.view({w.ones})',
            f'x = x * ({value} > 0.8).view({w.ones})',
        )
    )


@block()
def parametric_relu(w: Writer) -> None:
    if w.kind == TOKENS:
        w(f'x = {w.part("nn.PReLU()")}(x)')
        return
    w(f'x = {w.part(f"nn.PReLU({w.rng.choice((1, w.c))})")}(x)')


@block(TOKENS)
def positions(w: Writer) -> None:
    w.fixed = True
    w(f'x = x + {w.parameter(1, w.size[0], w.c)}')


@block(TOKENS)
def class_token(w: Writer) -> None:
    token = w.parameter(1, 1, w.c)
    w(f'x = torch.cat([{token}.expand(len(x), -1, -1), x], 1)')
    w.size = (w.size[0] + 1,)


@block()
def copied_into_buffer(w: Writer) -> None:
    value = w.buffer(f'torch.zeros({w.c})')
    dims = tuple(
        d
        for d in range(
            2 + len(w.size) if w.kind == MAP else 3 if w.kind == TOKENS else 2
        )
        if d != (1 if w.kind != TOKENS else 2)
    )
    w(f'{value}.copy_(x.detach().mean({dims}))')
    if w.chance():
        w(f'x = x - {value}.view({w.ones})')


@block(MAP)
def fixed_filter(w: Writer) -> None:
    kernel = w.buffer(f'torch.rand(1, 1, {", ".join("3" for _ in w.size)})')
    w(
        f'x = functional.conv{w.nd}d(x, {kernel}.expand(x.shape[1], *[-1] * {w.nd + 1}), padding=1, groups=x.shape[1])'
    )
