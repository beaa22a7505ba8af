# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Cuts at numbers that the network keeps in attributes."""

from ..writer import MAP, Writer, block


def _layers(w: Writer, widths: list[int], names: str = 'abcd') -> None:
    """Another layer for each piece, joined again."""
    outs = []
    for name, width in zip(names, widths, strict=False):
        if w.chance(0.3):
            outs.append((name, width))
        else:
            out = w.width()
            outs.append((w.act(f'{w.layer(width, out)}({name})'), out))
    w(f'x = torch.cat([{", ".join(code for code, _ in outs)}], {w.dim})')
    w.c = sum(out for _, out in outs)


@block()
def cut_at_sizes(w: Writer) -> None:
    widths = [w.rng.randint(1, 9) for _ in range(w.rng.choice((2, 3)))]
    w.to_width(sum(widths))
    names = 'abc'[: len(widths)]
    kept = w.one_of('list', 'tuple', 'apart', 'rest', 'left')
    if kept in ('list', 'tuple'):
        sizes = w.part(f'{kept}({widths})')
    else:
        parts = [w.part(str(width)) for width in widths]
        if kept in ('rest', 'left'):
            whole = f'x.shape[{w.dim}]' if kept == 'rest' else w.part(str(w.c))
            parts[-1] = ' - '.join([whole, *parts[:-1]])
        sizes = f'[{", ".join(parts)}]'
    w(f'{", ".join(names)} = x.split({sizes}, {w.dim})')
    _layers(w, widths, names)


@block()
def cut_at_slices(w: Writer) -> None:
    first, other = w.rng.randint(1, 9), w.rng.randint(1, 9)
    w.to_width(first + other)
    p = w.part(str(first))
    form = w.one_of(
        '{0}[{1}:{2}], {0}[{1}{2}:]', '{0}[{1}:-{3}], {0}[{1}-{3}:]'
    )
    ahead = ':, ' if w.dim == 1 else '..., '
    q = w.part(str(other)) if '{3}' in form else ''
    w(f'a, b = {form.format("x", ahead, p, q)}')
    _layers(w, [first, other])


@block()
def parts_of_the_width(w: Writer) -> None:
    parts = w.rng.choice((2, 3, 4))
    w.to_multiple(parts)
    ahead = ':, ' if w.dim == 1 else '..., '
    w(f'k = x.shape[{w.dim}] // {parts}')
    w(f'a, b = x[{ahead}:k], x[{ahead}k:]')
    _layers(w, [w.c // parts, w.c - w.c // parts])


@block(MAP)
def pieces_in_a_loop(w: Writer) -> None:
    number, width = w.rng.choice((2, 3)), w.rng.randint(1, 6)
    w.to_width((number + 1) * width)
    size = w.part(str(width))
    convs = ', '.join(w.conv(width, width, 3) for _ in range(number))
    w(f'convs, done, y = [{convs}], [], 0')
    w(
        w.one_of(
            f'pieces = x.split({size}, 1)',
            f'pieces = [x[:, i * {size} : (i + 1) * {size}] for i in range({number + 1})]',
        )
    )
    w(f'for i in range({number}):')
    w('    y = convs[i](y + pieces[i]).relu()')
    w('    done.append(y)')
    w('x = torch.cat([*done, pieces[-1]], 1)')
