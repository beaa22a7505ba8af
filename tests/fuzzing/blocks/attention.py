# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attention between positions, written in many ways."""

from ..writer import MAP, TOKENS, Writer, block


def _heads(w: Writer) -> int:
    heads = w.rng.choice((1, 2, 3))
    w.to_multiple(heads)
    return heads


@block(TOKENS)
def fused_heads(w: Writer) -> None:
    heads = _heads(w)
    inner = w.width(heads)
    each = inner // heads
    qkv, out = (
        w.linear(w.c, 3 * inner, w.one_of('', 'bias=False')),
        w.linear(inner, w.c),
    )
    w('n, l, _ = x.shape')
    w(
        f'y = {qkv}(x).reshape(n, l, 3, {heads}, {w.one_of(str(each), "-1")}).permute(2, 0, 3, 1, 4)'
    )
    w(
        w.one_of(
            'q, k, v = y.unbind(0)',
            'q, k, v = y[0], y[1], y[2]',
            'q, k, v = y',
        )
    )
    w(f'a = (q * {each}**-0.5 @ k.transpose(-2, -1)).softmax(-1)')
    w(
        f'y = {out}((a @ v).transpose(1, 2).reshape(n, l, {w.one_of(str(inner), "-1")}))'
    )
    w(w.one_of('x = x + y', 'x = y'))


@block(TOKENS)
def counted_heads(w: Writer) -> None:
    heads = w.rng.choice((2, 3, 4))
    w.to_multiple(heads)
    # As wide as the input, which then tells all sizes, or not.
    inner = w.rng.choice((w.c, w.width(heads)))
    of_input = inner == w.c and w.chance()
    each = inner // heads
    count, width, whole = (w.part(str(n)) for n in (heads, each, inner))
    if of_input:
        width, whole = f'c // {count}', 'c'
    out = w.linear(inner, w.c)
    w('n, l, c = x.shape')
    if w.chance():
        qkv = w.linear(w.c, 3 * inner)
        w(
            f'q, k, v = {qkv}(x).reshape(n, l, 3, {count}, {width}).permute(2, 0, 3, 1, 4)'
        )
    else:
        for name in 'qkv':
            layer = w.linear(w.c, inner)
            w(
                f'{name} = {layer}(x).reshape(n, -1, {count}, {width}).transpose(1, 2)'
            )
    if w.chance(0.3):
        w('y = functional.scaled_dot_product_attention(q, k, v)')
    else:
        w(f'a = (q @ k.mT) * {each}**-0.5')
        if w.chance():
            w(f'a = a * {w.parameter(heads, 1, 1)}.exp()')
        if w.chance(0.3):
            mixed = w.linear(heads, heads)
            w(f'a = {mixed}(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)')
        w('y = a.softmax(-1) @ v')
    w(f'x = x + {out}(y.transpose(1, 2).reshape(n, l, {whole}))')


@block(TOKENS)
def module_with_masks(w: Writer) -> None:
    heads = w.rng.choice((2, 3))
    w.to_multiple(heads)
    more = w.one_of('', ', bias=False', ', add_bias_kv=True')
    layer = w.part(
        f'nn.MultiheadAttention({w.c}, {heads}, batch_first=True{more})'
    )
    w('m = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)')
    w('p = torch.zeros(x.shape[:2], dtype=torch.bool)')
    given = w.one_of(
        'attn_mask=m',
        'key_padding_mask=p',
        'attn_mask=m, key_padding_mask=p, need_weights=False',
        'average_attn_weights=False',
    )
    w(f'x = x + {layer}(x, x, x.relu(), {given})[0]')


@block(TOKENS)
def separate_heads(w: Writer) -> None:
    heads = _heads(w)
    inner = w.width(heads)
    q, k, v = (w.linear(w.c, inner) for _ in range(3))
    out = w.linear(inner, w.c)
    w('n, l, _ = x.shape')
    for name, layer in zip('qkv', (q, k, v), strict=True):
        w(
            f'{name} = {layer}(x).view(n, l, {heads}, {inner // heads}).transpose(1, 2)'
        )
    if w.chance():
        w('y = functional.scaled_dot_product_attention(q, k, v)')
    else:
        w(
            'y = (q @ k.transpose(2, 3)).div(k.shape[-1] ** 0.5).softmax(-1) @ v'
        )
    w(f'x = x + {out}(y.transpose(1, 2).flatten(2))')


@block(TOKENS)
def single_head(w: Writer) -> None:
    inner, width = w.width(), w.width()
    q, k, v = w.linear(w.c, inner), w.linear(w.c, inner), w.linear(w.c, width)
    scale = w.one_of(
        '1', f'{inner} ** -0.5', 'q.shape[-1] ** -0.5', 'q.size(-1) ** -0.5'
    )
    w(f'q, k, v = {q}(x), {k}(x), {v}(x)')
    w(
        w.one_of(
            f'x = ({scale} * q @ k.transpose(1, 2)).softmax(-1) @ v',
            f'x = torch.bmm(torch.bmm(q, k.mT).mul({scale}).softmax(-1), v)',
            f'x = torch.einsum("nij,njc->nic", (torch.einsum("nic,njc->nij", q, k) * {scale}).softmax(-1), v)',
            'x = functional.scaled_dot_product_attention(q, k, v)',
            f'x = torch.baddbmm(v[:, :, :1].expand(-1, -1, x.shape[1]), q, k.mT).mul({scale}).softmax(-1) @ v',
        )
    )
    w.c = width


@block(TOKENS)
def multi_head_module(w: Writer) -> None:
    heads = _heads(w)
    layer = w.part(f'nn.MultiheadAttention({w.c}, {heads}, batch_first=True)')
    weights = w.one_of('', ', need_weights=False')
    w(f'x = x + {layer}(x, x, x{weights})[0]')


@block(TOKENS)
def encoder_layer(w: Writer) -> None:
    heads = _heads(w)
    layer = w.part(
        f'nn.TransformerEncoderLayer({w.c}, {heads}, {w.width()}, dropout=0.0, '
        f'batch_first=True, norm_first={w.chance()})'
    )
    w(f'x = {layer}(x)')


@block(TOKENS)
def decoder_layer(w: Writer) -> None:
    heads = _heads(w)
    layer = w.part(
        f'nn.TransformerDecoderLayer({w.c}, {heads}, {w.width()}, dropout=0.0, batch_first=True)'
    )
    w(f'x = {layer}(x, {w.linear(w.c, w.c)}(x))')


@block(TOKENS)
def linear_attention(w: Writer) -> None:
    heads = _heads(w)
    inner = w.width(heads)
    q, k, v = (w.linear(w.c, inner) for _ in range(3))
    each = inner // heads
    for name, layer in zip('qkv', (q, k, v), strict=True):
        w(
            f'{name} = {layer}(x).unflatten(-1, ({heads}, {each})).transpose(1, 2)'
        )
    w('q, k = functional.elu(q) + 1, functional.elu(k) + 1')
    w('y = q @ (k.mT @ v) / (q @ k.sum(2).unsqueeze(-1))')
    w(f'x = {w.linear(inner, w.c)}(y.transpose(1, 2).flatten(2))')


@block(TOKENS)
def channel_attention(w: Writer) -> None:
    q, k, v = (w.linear(w.c, w.c) for _ in range(3))
    w(f'a = ({q}(x).mT @ {k}(x)).softmax(-1)')
    w(f'x = x + {v}(x) @ a')


@block(TOKENS)
def grouped_queries(w: Writer) -> None:
    each, heads = w.rng.randint(2, 5), 4
    q, k, v = (
        w.linear(w.c, heads * each),
        w.linear(w.c, 2 * each),
        w.linear(w.c, 2 * each),
    )
    for name, layer, n in zip('qkv', (q, k, v), (4, 2, 2), strict=True):
        w(f'{name} = {layer}(x).unflatten(-1, ({n}, -1)).transpose(1, 2)')
    w('k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)')
    w('y = functional.scaled_dot_product_attention(q, k, v)')
    w(f'x = x + {w.linear(heads * each, w.c)}(y.transpose(1, 2).flatten(2))')


@block(TOKENS)
def rotary(w: Writer) -> None:
    each, heads = 2 * w.rng.randint(1, 3), 2
    q, k, v = (w.linear(w.c, heads * each) for _ in range(3))
    w(
        f't = torch.arange(x.shape[1], dtype=x.dtype)[:, None] / torch.arange(1, {each // 2 + 1}, dtype=x.dtype)'
    )
    w('cos, sin = t.cos().repeat(1, 2), t.sin().repeat(1, 2)')
    w('def turn(y):')
    w('    a, b = y.chunk(2, -1)')
    w('    return y * cos + torch.cat([-b, a], -1) * sin')
    for name, layer in zip('qkv', (q, k, v), strict=True):
        w(
            f'{name} = {layer}(x).unflatten(-1, ({heads}, {each})).transpose(1, 2)'
        )
    w(f'y = (turn(q) @ turn(k).mT / {each}**0.5).softmax(-1) @ v')
    w(f'x = x + {w.linear(heads * each, w.c)}(y.transpose(1, 2).flatten(2))')


@block(MAP)
def non_local(w: Writer) -> None:
    inner = w.width()
    q, k, v = (w.conv(w.c, inner, 1) for _ in range(3))
    out = w.conv(inner, w.c, 1)
    w(f'q, k, v = {q}(x).flatten(2), {k}(x).flatten(2), {v}(x).flatten(2)')
    a = w.one_of(
        '(q.mT @ k).softmax(-1)',
        '(q.mT @ k / q.shape[-1])',
        'torch.einsum("ncl,ncm->nlm", q, k).softmax(-1)',
    )
    w(f'y = v @ {a}.mT')
    w(f'x = x + {out}(y.view(len(x), -1, *x.shape[2:]))')


@block(MAP)
def gram(w: Writer) -> None:
    w('y = x.flatten(2)')
    w(
        f'g = (y @ y.mT / y.shape[-1]).{w.one_of("softmax(-1)", "tanh()", "sigmoid()")}'
    )
    w('x = x + (g @ y).view_as(x)')


@block(MAP)
def bilinear_pooling(w: Writer) -> None:
    if w.c > 8:
        w.to_width(w.rng.randint(2, 6))
    width = w.width()
    w('y = x.flatten(2)')
    w('y = (y @ y.mT).flatten(1)')
    w(f'x = {w.linear(w.c**2, width)}(y)')
    w.kind, w.size, w.c = 'vector', (), width


@block(MAP)
def map_attention(w: Writer) -> None:
    heads = _heads(w)
    qkv = w.conv(w.c, 3 * w.c, 1)
    w('n, c, *size = x.shape')
    w(
        f'q, k, v = {qkv}(x).view(n, {heads}, {3 * w.c // heads}, -1).chunk(3, 2)'
    )
    w('a = (q.mT @ k).softmax(-1)')
    w('x = x + (v @ a.mT).reshape(n, c, *size)')


@block(TOKENS)
def masked_attention(w: Writer) -> None:
    inner = w.width()
    q, k, v = w.linear(w.c, inner), w.linear(w.c, inner), w.linear(w.c, w.c)
    w(f'a = {q}(x) @ {k}(x).mT')
    w(
        'a = a.masked_fill(torch.ones(a.shape[-2:], dtype=torch.bool).triu(1), -1e9)'
    )
    w(f'x = x + a.softmax(-1) @ {v}(x)')


@block(TOKENS)
def heads_of_the_input(w: Writer) -> None:
    heads = _heads(w)
    qkv, out = w.linear(w.c, 3 * w.c), w.linear(w.c, w.c)
    w('n, l, c = x.shape')
    w(
        f'q, k, v = {qkv}(x).reshape(n, l, 3, {heads}, c // {heads}).permute(2, 0, 3, 1, 4)'
    )
    w(
        w.one_of(
            'y = (q * 0.3 @ k.mT).softmax(-1) @ v',
            'y = functional.scaled_dot_product_attention(q, k, v, scale=0.3)',
            'y = (functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).mT).softmax(-1) @ v',
        )
    )
    w(f'x = x + {out}(y.transpose(1, 2).reshape(n, l, c))')
