# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Convolutions of every form."""

from ..writer import MAP, Writer, block


@block(MAP)
def strided(w: Writer) -> None:
    if min(w.size) < 3:
        return
    width = w.width()
    w(f'x = {w.conv(w.c, width, 3, "stride=2")}(x).relu()')
    w.c, w.size = width, tuple((s + 1) // 2 for s in w.size)


@block(MAP)
def dilated(w: Writer) -> None:
    width = w.width()
    mode = w.one_of('zeros', 'circular', 'replicate', 'reflect')
    if min(w.size) < 3 or (mode == 'reflect' and w.nd == 3):
        mode = 'zeros'
    w(f'x = {w.conv(w.c, width, 3, f"padding_mode={mode!r}")}(x).relu()')
    w.c = width
    layer = f'nn.Conv{w.nd}d({w.c}, {width}, 3, padding=2, dilation=2)'
    w(f'x = {w.norm(width)}({w.part(layer)}(x))')


@block(MAP)
def grouped(w: Writer) -> None:
    groups = w.rng.choice((2, 3, 4))
    w.to_multiple(groups)
    width = w.width(groups)
    layer = w.conv(w.c, width, more=f'groups={groups}')
    w(
        f'x = {w.act(f"{w.norm(width)}({layer}(x))") if w.chance() else f"{layer}(x).relu()"}'
    )
    w.c = width


@block(MAP)
def depthwise(w: Writer) -> None:
    times = w.rng.choice((1, 1, 2, 3))
    width = w.c * times
    layer = w.conv(w.c, width, 3, f'groups={w.c}')
    w(
        f'x = {w.act(f"{w.norm(width)}({layer}(x))") if w.chance() else f"{layer}(x)"}'
    )
    w.c = width
    w.to_width(w.width())


@block(MAP)
def separable(w: Writer) -> None:
    middle, width = w.width(), w.width()
    a, b = (
        w.conv(w.c, middle, 1),
        w.conv(middle, middle, 3, f'groups={middle}'),
    )
    c = w.conv(middle, width, 1)
    first, second = w.norm(middle), w.norm(middle)
    w(f'y = {w.act(f"{first}({a}(x))")}')
    w(f'y = {w.act(f"{second}({b}(y))")}')
    w(f'x = x + {c}(y)' if width == w.c else f'x = {c}(y)')
    w.c = width


@block(MAP)
def transposed(w: Writer) -> None:
    groups = w.rng.choice((1, 1, 2, 3))
    w.to_multiple(groups)
    width = w.width(groups)
    bias = w.one_of('', ', bias=False')
    layer = w.part(
        f'nn.ConvTranspose{w.nd}d({w.c}, {width}, 2, stride=2, groups={groups}{bias})'
    )
    w(f'x = {w.act(f"{layer}(x)")}')
    w.c, w.size = width, tuple(2 * s for s in w.size)
    if w.positions > 200:
        w(f'x = functional.avg_pool{w.nd}d(x, 2)')
        w.size = tuple(s // 2 for s in w.size)


@block(MAP)
def transposed_depthwise(w: Writer) -> None:
    layer = w.part(
        f'nn.ConvTranspose{w.nd}d({w.c}, {w.c}, 3, padding=1, groups={w.c})'
    )
    w(f'x = {layer}(x).relu()')


@block(MAP)
def split_heads(w: Writer) -> None:
    groups = w.rng.choice((2, 3))
    w.to_multiple(groups)
    part = w.c // groups
    layers = [w.conv(part, w.width()) for _ in range(groups)]
    w(f'pieces = x.chunk({groups}, 1)')
    line = ', '.join(f'{layer}(pieces[{i}])' for i, layer in enumerate(layers))
    w(f'x = torch.cat([{line}], 1)')
    w.c = sum(int(p.split('(')[1].split(', ')[1]) for p in w.parts[-groups:])


@block(MAP)
def unfolded(w: Writer) -> None:
    if w.nd != 2:
        return
    width = w.width()
    w('n, c, *size = x.shape')
    w('y = functional.unfold(x, 3, padding=1)')
    if w.chance():
        w(f'x = {w.linear(9 * w.c, width)}(y.transpose(1, 2)).transpose(1, 2)')
        w(f'x = x.reshape(n, {width}, *size)')
        w.c = width
    elif w.chance():
        w('x = y.view(n, c, 9, *size).amax(2)')
    else:
        w('x = functional.fold(y, size, 3, padding=1)')


@block(MAP)
def dynamic_weight(w: Writer) -> None:
    if w.nd != 2:
        return
    width, experts = w.width(), 2
    bank = w.parameter(experts, width, w.c, 1, 1)
    route = w.linear(w.c, experts)
    w(f'a = {route}(x.mean((2, 3))).softmax(-1)')
    w(f'kernel = torch.einsum("ne,eoikl->noikl", a, {bank})')
    w('n, c, *size = x.shape')
    w('y = x.reshape(1, n * c, *size)')
    w('y = functional.conv2d(y, kernel.flatten(0, 1), groups=n)')
    w(f'x = y.reshape(n, {width}, *size)')
    w.c = width


@block(MAP)
def mixture(w: Writer) -> None:
    width = w.width()
    a, b, route = w.conv(w.c, width), w.conv(w.c, width), w.linear(w.c, 2)
    w(f'g = {route}(x.mean({w.space})).softmax(-1)')
    one = ', '.join(['-1', '1', *('1' for _ in w.size)])
    w(f'x = {a}(x) * g[:, 0].view({one}) + {b}(x) * g[:, 1].view({one})')
    w.c = width
