# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Channels that are joined, cut, shuffled and laid out anew."""

from ..writer import MAP, TOKENS, Writer, block


@block()
def dense(w: Writer) -> None:
    width = w.width()
    layer = w.layer(w.c, width)
    w(f'x = torch.cat([x, {layer}(x).relu()], {w.dim})')
    w.c += width
    if w.c > 40 or w.chance():
        w.to_width(w.width())


@block()
def repeats(w: Writer) -> None:
    if w.c > 16:
        w.to_width(w.width() // 2 + 1)
    w(
        f'x = torch.cat({w.one_of("[x, x]", "[x, -x]", "[x.relu(), (-x).relu()]")}, {w.dim})'
    )
    w.c *= 2


@block()
def joined_with_constant(w: Writer) -> None:
    make = w.one_of('zeros_like', 'ones_like', 'randn_like')
    if make == 'randn_like':
        make = 'ones_like'
    w(f'y = torch.{make}(x).narrow({w.dim}, 0, 1)')
    w(f'x = torch.cat({w.one_of("[x, y]", "[y, x]")}, {w.dim})')
    w.c += 1


@block()
def branches(w: Writer) -> None:
    widths = [w.width() // 2 + 1 for _ in range(w.rng.choice((2, 3)))]
    parts = ', '.join(f'{w.act(f"{w.layer(w.c, n)}(x)")}' for n in widths)
    w.c = sum(widths)
    norm = w.norm(w.c) if w.chance() else ''
    w(f'x = {norm}(torch.cat([{parts}], {w.dim}))')


@block()
def halves(w: Writer) -> None:
    w.to_multiple(2)
    cut = w.one_of(
        f'x.chunk(2, {w.dim})',
        f'x.split({w.c // 2}, {w.dim})',
        f'x.tensor_split(2, {w.dim})',
    )
    w(f'a, b = {cut}')
    w(f'a = {w.layer(w.c // 2, w.c // 2)}(a).relu()')
    w(
        f'x = torch.cat({w.one_of("[a, b]", "[b, a]", "[a + b, b]", "[a, a * b]")}, {w.dim})'
    )


@block()
def glu(w: Writer) -> None:
    width = w.width()
    layer = w.layer(w.c, 2 * width)
    gate = w.one_of(
        f'functional.glu({layer}(x), {w.dim})',
        f'(lambda a, b: a * b.sigmoid())(*{layer}(x).chunk(2, {w.dim}))',
    )
    w(f'x = {gate}')
    w.c = width


@block()
def unequal(w: Writer) -> None:
    if w.c < 3:
        return
    first = w.part_of(w.c)
    width = w.width()
    w(f'a, b = x.split([{first}, {w.c - first}], {w.dim})')
    w(f'a = {w.layer(first, width)}(a)')
    w(
        f'x = torch.cat([b, a], {w.dim})'
        if w.chance()
        else f'x = torch.cat([a, b.relu()], {w.dim})'
    )
    w.c = w.c - first + width


@block(MAP)
def slices(w: Writer) -> None:
    width = w.width()
    w(f'x = {w.conv(w.c, width)}(x)')
    w.c = width
    cut = w.part_of(width)
    w(
        w.one_of(
            'x = torch.cat([x[:, ::2], x[:, 1::2]], 1)',
            f'x = torch.cat([x[:, {cut}:], x[:, :{cut}].relu()], 1)',
            'x = torch.cat([x[:, :-1].relu(), x[:, -1:]], 1)',
            f'x = torch.cat([x.narrow(1, 0, {cut}).relu(), x[:, {cut}:]], 1)',
        )
    )


@block(MAP)
def part_convolved(w: Writer) -> None:
    first = w.part_of(w.c)
    layer = w.conv(first, first, 3)
    w(f'x = torch.cat([{layer}(x[:, :{first}]), x[:, {first}:]], 1)')


@block(MAP)
def shuffle(w: Writer) -> None:
    groups = w.rng.choice((2, 3))
    w.to_multiple(groups)
    w('n, c, *size = x.shape')
    w(
        f'x = x.view(n, {groups}, c // {groups}, *size).transpose(1, 2).reshape(n, c, *size)'
    )


@block(MAP)
def shuffle_module(w: Writer) -> None:
    w.to_multiple(2)
    if w.nd == 2:
        w(f'x = {w.part("nn.ChannelShuffle(2)")}(x)')


@block()
def stacked(w: Writer) -> None:
    layers = [w.layer(w.c, w.c) for _ in range(2)]
    parts = ', '.join(f'{layer}(x)' for layer in layers)
    w(f'y = torch.stack([{parts}], 1)')
    w(
        w.one_of(
            'x = y.sum(1)',
            'a, b = y.unbind(1); x = a * b',
            'x = y.amax(1)',
            'x = (y * y.softmax(1)).sum(1)',
            'x = y[:, 0] + y[:, 1].relu()',
        )
    )


@block(MAP)
def channel_by_channel(w: Writer) -> None:
    scale = w.parameter(w.c)
    w(
        w.one_of(
            f'x = torch.stack([x[:, i] * {scale}[i] for i in range(x.shape[1])], 1)',
            f'x = torch.stack([y * s for y, s in zip(x.unbind(1), {scale})], 1)',
            f'x = torch.cat([y.relu() for y in x.split(1, 1)], 1) * {scale}.view({w.ones})',
        )
    )


@block(MAP)
def pieces(w: Writer) -> None:
    w.to_multiple(2)
    layer = w.conv(2, 2)
    w(f'x = torch.cat([{layer}(y) for y in x.split(2, 1)], 1)')


@block(MAP)
def hierarchy(w: Writer) -> None:
    w.to_multiple(3)
    a, b = (w.conv(w.c // 3, w.c // 3) for _ in range(2))
    w('p, q, r = x.chunk(3, 1)')
    w(f'q = {a}(q + p)')
    w(f'r = {b}(r + q)')
    w('x = torch.cat([p, q, r], 1)')


@block(MAP)
def padded_shortcut(w: Writer) -> None:
    more = w.width()
    layer = w.conv(w.c, w.c + more)
    before = w.rng.randint(0, more)
    zeros = ', '.join('0' for _ in range(2 * w.nd))
    w(
        f'x = {layer}(x) + functional.pad(x, ({zeros}, {before}, {more - before}))'
    )
    w.c += more


@block(TOKENS)
def padded_channels(w: Writer) -> None:
    w('x = functional.pad(x, (1, 2))')
    w.c += 3


@block()
def rolled_channels(w: Writer) -> None:
    w(f'x = {w.layer(w.c, w.c)}(x)')
    w(
        w.one_of(
            f'x = x.roll(1, {w.dim})',
            f'x = x.flip({w.dim})',
            f'x = x + x.roll(-1, {w.dim})',
        )
    )


@block()
def permuted_channels(w: Writer) -> None:
    w(f'x = {w.layer(w.c, w.c)}(x)')
    order = w.buffer(f'torch.randperm({w.c})')
    w(
        w.one_of(
            f'x = x.index_select({w.dim}, {order})',
            f'x = x[:, {order}]' if w.kind == MAP else f'x = x[..., {order}]',
        )
    )


@block(MAP)
def maxout(w: Writer) -> None:
    width, pieces = w.width() // 2 + 1, 2
    layer = w.conv(w.c, width * pieces)
    w(f'y = {layer}(x)')
    w(
        w.one_of(
            f'x = y.view(len(y), {width}, {pieces}, *y.shape[2:]).amax(2)',
            f'x = y.view(len(y), {pieces}, {width}, *y.shape[2:]).amax(1)',
            f'x = torch.maximum(*y.chunk({pieces}, 1))',
        )
    )
    w.c = width


@block(MAP)
def coordinates(w: Writer) -> None:
    width = w.width()
    layer = w.conv(w.c + 1, width)
    w(
        'y = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype).expand(len(x), 1, *x.shape[2:])'
    )
    w(f'x = {layer}(torch.cat([x, y], 1)).relu()')
    w.c = width


@block(MAP)
def repeated_interleaved(w: Writer) -> None:
    if w.c > 12:
        w.to_width(w.width() // 2 + 1)
    tail = ', '.join('1' for _ in w.size)
    w(
        w.one_of(
            'x = x.repeat_interleave(2, 1)',
            f'x = x.repeat(1, 2, {tail})',
            f'x = x.tile((1, 2, {tail}))',
        )
    )
    w.c *= 2


@block()
def scattered(w: Writer) -> None:
    width = w.width()
    w(f'x = {w.layer(w.c, width)}(x)')
    w.c = width
    order = w.buffer(f'torch.randperm({width})')
    d = w.dim
    w(
        w.one_of(
            f'x = torch.zeros_like(x).index_copy({d}, {order}, x)',
            f'x = x.index_add({d}, {order}, x)',
            f'x = torch.take_along_dim(x, x.argsort({d}), {d})',
            f'x = torch.cat([x.select({d}, i).unsqueeze({d}) for i in range(x.shape[{d}])], {d})',
            f'x = x.index_select({d}, torch.arange(x.shape[{d}] - 1, -1, -1))',
        )
    )


@block(MAP)
def nested_lists(w: Writer) -> None:
    """Every layer reads all before it."""
    width = w.width() // 4 + 1
    w('found = [x]')
    for _ in range(3):
        layer = w.conv(w.c, width)
        w(f'found.append({layer}(torch.cat(found, 1)).relu())')
        w.c += width
    w('x = torch.cat(found, 1)')
    w.to_width(w.width())


@block(MAP)
def split_and_summed(w: Writer) -> None:
    width = w.width()
    layer = w.conv(w.c, 3 * width)
    w(f'y = {layer}(x)')
    w(
        w.one_of(
            f'x = y.view(len(y), 3, {width}, *y.shape[2:]).sum(1)',
            'x = sum(y.chunk(3, 1))',
            f'x = y[:, :{width}] * y[:, {width}:{2 * width}] + y[:, {2 * width}:]',
        )
    )
    w.c = width
