# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Blocks of well-known networks."""

from ..writer import MAP, TOKENS, VECTOR, Writer, block
from .gates import COARSE

# [n, c] for anything, and its shape for `x`.
POOLED = {MAP: 'x.mean({})', TOKENS: 'x.mean(1)', VECTOR: 'x'}
BESIDE = {
    MAP: '.view(len(x), -1, {})',
    TOKENS: '.unsqueeze(1)',
    VECTOR: '',
}


def _pooled(w: Writer) -> str:
    return POOLED[w.kind].format(w.space)


def _beside(w: Writer) -> str:
    return BESIDE[w.kind].format(', '.join('1' for _ in w.size))


@block(MAP, since=3000)
def partial_stages(w: Writer) -> None:
    """As C2f of YOLOv8."""
    half, width, number = w.width() // 2 + 1, w.width(), w.rng.choice((1, 2))
    first = w.conv(w.c, 2 * half, 1)
    last = w.conv((2 + number) * half, width, 1)
    layers = ', '.join(w.conv(half, half) for _ in range(number))
    steps = w.part(f'nn.ModuleList([{layers}])')
    cut = w.one_of('chunk(2, 1)', f'split(({half}, {half}), 1)')
    w(f'y = list({first}(x).{cut})')
    w(f'y.extend(layer(y[-1]).relu() for layer in {steps})')
    w(f'x = {last}(torch.cat(y, 1))')
    w.c = width


@block(MAP, since=3000)
def ghost(w: Writer) -> None:
    """As GhostNet: cheap channels beside, of which not all are needed."""
    first = w.width() // 2 + 1
    width = w.rng.randint(first + 1, 2 * first)
    a = w.conv(w.c, first, 1)
    b = w.conv(first, first, 3, f'groups={first}')
    w(f'y = {a}(x).relu()')
    w(f'x = torch.cat([y, {b}(y).relu()], 1)[:, :{width}]')
    w.c = width


@block(MAP, since=3000)
def feature_pyramid(w: Writer) -> None:
    if min(w.size) < 2:
        return
    low, high, width = w.width(), w.width(), w.width() // 2 + 1
    a, b = w.conv(w.c, low), w.conv(low, high, 3, 'stride=2')
    near, far = w.conv(low, width, 1), w.conv(high, width, 1)
    smooth = w.conv(width, width, 3)
    w(f'y = {a}(x).relu()')
    w(f'z = {far}({b}(y).relu())')
    w(f'y = {near}(y) + functional.interpolate(z, y.shape[2:])')
    w(
        f'x = torch.cat([{smooth}(y), functional.interpolate(z, y.shape[2:])], 1)'
    )
    w.c = 2 * width


@block(MAP, since=3000)
def selective_kernel(w: Writer) -> None:
    """As SKNet: attention chooses between branches."""
    width, middle = w.width(), w.width() // 2 + 1
    a, b = w.conv(w.c, width, 1), w.conv(w.c, width, 3)
    squeeze = w.linear(width, middle)
    w(f'y = torch.stack([{a}(x), {b}(x)], 1)')
    w(f'z = {squeeze}(y.sum(1).mean({w.space})).relu()')
    if w.chance():
        p, q = w.linear(middle, width), w.linear(middle, width)
        w(f'z = torch.stack([{p}(z), {q}(z)], 1).softmax(1)')
    else:
        both = w.linear(middle, 2 * width)
        w(f'z = {both}(z).view(len(z), 2, -1).softmax(1)')
    w(f'x = (y * z.view(*z.shape, {", ".join("1" for _ in w.size)})).sum(1)')
    w.c = width


@block(MAP, since=3000)
def split_attention(w: Writer) -> None:
    """As ResNeSt: parts of one grouped convolution instead."""
    w.to_multiple(2)
    width, middle = w.width(), w.width() // 2 + 1
    layer = w.conv(w.c, 2 * width, more='groups=2')
    a, b = w.linear(width, middle), w.linear(middle, 2 * width)
    w(f'y = {layer}(x).relu()')
    w('y = y.view(len(y), 2, y.shape[1] // 2, *y.shape[2:])')
    w(f'z = {b}({a}(y.sum(1).mean({w.space})).relu())')
    w('z = z.view(len(z), 2, -1).softmax(1)')
    w('x = (y * z.view(*z.shape, *[1] * (y.dim() - 3))).sum(1)')
    w.c = width


@block(MAP, since=3000)
def coordinate_attention(w: Writer) -> None:
    if w.nd != 2:
        return
    middle = w.width() // 2 + 1
    a, b, c = (
        w.conv(w.c, middle, 1),
        *(w.conv(middle, w.c, 1) for _ in range(2)),
    )
    w('h, v = x.shape[2:]')
    w('y = torch.cat([x.mean(3, True), x.mean(2, True).mT], 2)')
    w(f'p, q = {w.act(f"{a}(y)")}.split([h, v], 2)')
    w(f'x = x * {b}(p).sigmoid() * {c}(q.mT).sigmoid()')


@block(since=3000)
def feature_modulation(w: Writer) -> None:
    """As FiLM: scales and shifts from somewhere else."""
    width = w.width()
    layer, both = w.layer(w.c, width), w.linear(w.c, 2 * width)
    w(f'g, b = {both}({_pooled(w)}).chunk(2, -1)')
    w(f'x = {layer}(x) * (1 + g{_beside(w)}) + b{_beside(w)}')
    w.c = width


@block(MAP, since=3000)
def gate_of_the_other_branch(w: Writer) -> None:
    width, other, middle = w.width(), w.width(), w.width() // 2 + 1
    a, b = w.conv(w.c, width), w.conv(w.c, other)
    p, q = w.linear(other, middle), w.linear(middle, width)
    w(f'y, z = {a}(x), {b}(x).relu()')
    w(f'g = {q}({p}(z.mean({w.space})).relu()).sigmoid()')
    w(f'y = y * g{_beside(w)}')
    w('x = torch.cat([y, z], 1)')
    w.c = width + other


@block(TOKENS, VECTOR, since=3000)
def low_rank(w: Writer) -> None:
    """As LoRA, apart or merged."""
    width, rank = w.width(), w.rng.randint(1, 4)
    layer, a, b = (
        w.linear(w.c, width),
        w.parameter(rank, w.c),
        w.parameter(width, rank),
    )
    w(
        w.one_of(
            f'x = {layer}(x) + 0.5 * (x @ {a}.t()) @ {b}.t()',
            f'x = functional.linear(x, {layer}.weight + {b} @ {a}, {layer}.bias)',
            f'x = {layer}(x) + functional.linear(functional.linear(x, {a}), {b})',
        )
    )
    w.c = width


@block(since=3000)
def routed(w: Writer) -> None:
    """A mixture of the two best of three experts."""
    width = w.width()
    experts = ', '.join(w.layer(w.c, width) for _ in range(3))
    layers = w.part(f'nn.ModuleList([{experts}])')
    w(f'g, i = {w.linear(w.c, 3)}({_pooled(w)}).softmax(-1).topk(2)')
    w(
        f'x = sum((g * (i == k)).sum(-1, True){_beside(w)} * layer(x) for k, layer in enumerate({layers}))'
    )
    w.c = width


@block(TOKENS, VECTOR, since=3000)
def codebook(w: Writer) -> None:
    """As VQ-VAE: every vector becomes the nearest one of a table."""
    table = w.parameter(5, w.c)
    w(f'y = (x.unsqueeze(-2) - {table}).square().sum(-1)')
    w(f'i = {COARSE.replace("x", "y")}.argmin(-1)')
    w(
        w.one_of(
            f'x = x + ({table}[i] - x).detach()',
            f'x = functional.embedding(i, {table}) + x',
        )
    )


@block(MAP, since=3000)
def convolutional_gru(w: Writer) -> None:
    width = w.width() // 2 + 1
    gates = w.conv(w.c + width, 2 * width)
    candidate = w.conv(w.c + width, width)
    w(f'h = x.new_zeros(len(x), {width}, *x.shape[2:])')
    w('for _ in range(2):')
    w(f'    z, r = {gates}(torch.cat([x, h], 1)).sigmoid().chunk(2, 1)')
    w(f'    y = {candidate}(torch.cat([x, r * h], 1)).tanh()')
    w('    h = (1 - z) * h + z * y')
    w('x = h')
    w.c = width


@block(MAP, since=3000)
def tied_transposed(w: Writer) -> None:
    """An encoder and its decoder with one weight, [width, c, ...]."""
    width = w.width()
    a = w.conv(w.c, width, 3)
    b = w.part(f'nn.ConvTranspose{w.nd}d({width}, {w.c}, 3, padding=1)')
    w.after(f'{b}.weight = {a}.weight')
    w(f'x = {b}({w.act(f"{a}(x)")})')


@block(since=3000)
def reversed_chunks(w: Writer) -> None:
    number, each = w.rng.choice((2, 3)), w.rng.randint(1, 6)
    w.to_width(number * each)
    layers = ', '.join(w.layer(each, each) for _ in range(number))
    steps = w.part(f'nn.ModuleList([{layers}])')
    w(f'y, z, done = x.chunk({number}, {w.dim}), 0, []')
    w(f'for i in reversed(range({number})):')
    w(f'    z = {steps}[i](y[i] + z).relu()')
    w(w.one_of('    done.append(z)', '    done.insert(0, z)'))
    w(f'x = torch.cat(done, {w.dim})')


@block(MAP, since=3000)
def group_norm_of_joined(w: Writer) -> None:
    """Groups of the norm need not end where a branch does."""
    groups = w.rng.choice((2, 3))
    first, whole = w.width(), w.width(groups)
    whole += groups * (first // groups + 1)
    a, b = w.conv(w.c, first), w.conv(w.c, whole - first)
    norm = w.part(f'nn.GroupNorm({groups}, {whole})')
    w(f'x = {norm}(torch.cat([{a}(x), {b}(x)], 1)).relu()')
    w.c = whole


@block(TOKENS, since=3000)
def one_key_and_value(w: Writer) -> None:
    """Queries of many heads read the same keys, which are values too."""
    heads, each = w.rng.choice((2, 3)), w.rng.randint(1, 6)
    q, out = w.linear(w.c, heads * each), w.linear(heads * each, w.c)
    w(f'q = {q}(x).unflatten(-1, ({heads}, -1)).transpose(1, 2)')
    if w.chance():
        w(f'k = v = {w.linear(w.c, each)}(x).unsqueeze(1)')
    else:
        w(f'k, v = {w.linear(w.c, 2 * each)}(x).unsqueeze(1).chunk(2, -1)')
    w(
        w.one_of(
            f'y = (q @ k.mT * {each}**-0.5).softmax(-1) @ v',
            'y = functional.scaled_dot_product_attention(q, k.expand_as(q), v.expand_as(q))',
        )
    )
    w(f'x = x + {out}(y.transpose(1, 2).flatten(2))')


@block(TOKENS, since=3000)
def learned_queries(w: Writer) -> None:
    """As DETR and Perceiver: a few vectors read the sequence."""
    number, width = w.rng.randint(2, 4), 2 * (w.width() // 4 + 1)
    queries = w.parameter(1, number, width)
    layer = w.part(
        f'nn.MultiheadAttention({width}, 2, kdim={w.c}, vdim={w.c}, batch_first=True)'
    )
    w(f'y = {queries}.expand(len(x), -1, -1)')
    w(f'x = y + {layer}(y, x, x, need_weights=False)[0]')
    w.size, w.c = (number,), width


@block(TOKENS, since=3000)
def both_directions(w: Writer) -> None:
    width = w.width() // 2 + 1
    cells = [w.part(f'nn.LSTMCell({w.c}, {width})') for _ in range(2)]
    w('done = []')
    for cell, order in zip(cells, ('x', 'x.flip(1)'), strict=True):
        w(f'h = c = x.new_zeros(len(x), {width})')
        w('steps = []')
        w(f'for y in {order}.unbind(1):')
        w(f'    h, c = {cell}(y, (h, c))')
        w('    steps.append(h)')
        w('done.append(torch.stack(steps, 1))')
    w('x = torch.cat([done[0], done[1].flip(1)], -1)')
    w.c = 2 * width


@block(since=3000)
def masked_channels(w: Writer) -> None:
    width = w.width()
    w(f'x = {w.layer(w.c, width)}(x)')
    w.c = width
    mask = f'{w.buffer(f"torch.arange({w.c}) % 3 == 0")}.view({w.ones})'
    w(
        w.one_of(
            f'x = x.masked_fill({mask}, 0.0)',
            f'x = x.masked_fill({mask}, 0.5)',
            f'x = torch.where({mask}, x, x.relu())',
        )
    )


@block(since=3000)
def gathered_channels(w: Writer) -> None:
    width = w.width()
    w(f'x = {w.layer(w.c, width)}(x)')
    w.c = width
    order = w.buffer(f'torch.randperm({w.c})')
    w(
        w.one_of(
            f'x = x.gather({w.dim}, {order}.view({w.ones}).expand_as(x))',
            f'x = torch.take_along_dim(x, {order}.view({w.ones}).expand_as(x), {w.dim})',
            f'x = x.index_select({w.dim}, {order}).index_select({w.dim}, {order}.argsort())',
        )
    )
