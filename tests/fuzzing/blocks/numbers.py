# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Python that compares and divides numbers of channels of several layers."""

from ..writer import MAP, Writer, block


def _two(w: Writer) -> tuple[int, int]:
    """One layer behind the other: y and z."""
    first, second = w.width(), w.width()
    w(f'y = {w.layer(w.c, first)}(x)')
    w(f'z = {w.layer(first, second)}(y)')
    w.c = second
    return first, second


def _if(w: Writer, asked: str) -> None:
    w(f'x = (2 * z.relu() if {asked} else z) + 0.5 * z')


@block(since=5600)
def compared_widths(w: Writer) -> None:
    _two(w)
    y, z = (f'{name}.shape[{w.dim}]' for name in 'yz')
    _if(
        w,
        w.one_of(
            f'{y} > {z}',
            f'{y} <= {z}',
            f'{y} != {z}',
            f'{y} == {z}',
            'y.shape != z.shape',
            f'2 * {y} < {z}',
            f'{y} + {z} > {w.width()}',
            f'min({y}, {z}) > {w.rng.randint(1, 4)}',
            f'max({y}, {z}) == {z}',
        ),
    )


@block(since=5600)
def compared_attributes(w: Writer) -> None:
    """Kept apart or in a list, and checked to be what they are called."""
    widths = _two(w)
    if w.chance():
        kept = w.part(str([*widths]))
        first, second = f'{kept}[0]', f'{kept}[1]'
    else:
        first, second = (w.part(str(width)) for width in widths)
    for name, number in (('y', first), ('z', second)):
        w(f'assert {name}.shape[{w.dim}] == {number}')
    _if(w, w.one_of(*(f'{first} {by} {second}' for by in ('>', '!=', '<='))))


@block(since=5600)
def numbers_of_layers(w: Writer) -> None:
    width = w.width() if w.chance() else w.c
    layer = w.layer(w.c, width)
    noun = 'channels' if w.kind == MAP else 'features'
    into, out = f'{layer}.in_{noun}', f'{layer}.out_{noun}'
    w(f'z = {layer}(x)')
    w.c = width
    _if(
        w,
        w.one_of(
            f'{into} == {out}',
            f'{into} > {out}',
            f'{out} > {w.rng.randint(1, 4)}',
            f'{out} % 2 == 0',
        ),
    )


@block(since=5600)
def left_over(w: Writer) -> None:
    width, by = w.width(), w.rng.randint(2, 6)
    w(f'z = {w.layer(w.c, width)}(x)')
    w.c, number = width, f'z.shape[{w.dim}]'
    _if(w, w.one_of(f'{number} % {by} == 0', f'divmod({number}, {by})[1]'))


@block(since=5600)
def projected_where_different(w: Writer) -> None:
    width = w.width()
    layer, project = w.layer(w.c, width), w.layer(w.c, width)
    w(f'y = {layer}(x).relu()')
    w(f'x = y + ({project}(x) if y.shape[{w.dim}] != x.shape[{w.dim}] else x)')
    if width == w.c:
        w.leave_unused(project)
    w.c = width


@block(since=5600)
def viewed_as(w: Writer) -> None:
    width = w.width()
    a, b = w.layer(w.c, width), w.layer(w.c, width)
    call = w.one_of('view_as', 'reshape_as')
    w(f'y, z = {a}(x), {b}(x)')
    w(f'y = y.relu().flatten(1).contiguous().{call}(z)')
    w(f'x = torch.cat([y, z], {w.dim})')
    w.c = 2 * width


@block(MAP, since=5600)
def groups_of_a_call(w: Writer) -> None:
    """A depthwise convolution of which no layer knows the groups."""
    kernel = w.parameter(w.c, 1, *(3 for _ in w.size))
    groups = w.one_of('x.shape[1]', f'len({kernel})', w.part(str(w.c)))
    w(f'x = functional.conv{w.nd}d(x, {kernel}, padding=1, groups={groups})')
