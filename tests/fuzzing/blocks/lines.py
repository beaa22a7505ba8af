# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Sums, orders and messages along positions, beside which channels lie."""

from ..writer import MAP, TOKENS, Writer, block
from .gates import COARSE


@block(MAP, TOKENS, since=4400)
def along_positions(w: Writer) -> None:
    d = 1 if w.kind == TOKENS else w.rng.choice(w.space)
    order = f'{COARSE}.argsort(dim={d}, stable=True)'
    w(
        w.one_of(
            f'x = x.cumsum({d}) * 0.3',
            f'x = x.tanh().cumprod({d})',
            f'x = x.cummax({d}).values',
            f'x = x + x.topk(1, {d}).values',
            f'x = x - x.median({d}, keepdim=True).values',
            f'x = x - x.kthvalue(1, {d}, keepdim=True).values',
            f'x = x - x.quantile(0.5, {d}, keepdim=True)',
            f'x = x / (1 + x.logsumexp({d}, keepdim=True).abs())',
            f'x = x.logcumsumexp({d}).tanh()',
            f'x = x.gather({d}, {order})',
            f'x = torch.zeros_like(x).scatter({d}, {order}, x)',
            f'x = x.index_fill({d}, torch.tensor([0]), 0.5)',
            f'x = x.index_add({d}, torch.tensor([0]), x.narrow({d}, 0, 1))',
            f'x = x.index_copy({d}, torch.tensor([0]), x.mean({d}, True))',
        )
    )


@block(MAP, since=4400)
def along_two_dimensions(w: Writer) -> None:
    if w.nd < 2:
        return
    w(
        w.one_of(
            'x = x + x.tril()',
            'x = x.triu(-1)',
            'x = x + x.diagonal(0, -2, -1).mean(-1)[..., None, None]',
            'x = x - x.logsumexp((-2, -1), keepdim=True)',
            'x = x - x.flatten(2).median(-1).values[(..., *[None] * (x.dim() - 2))]',
        )
    )


@block(MAP, since=4400)
def folded(w: Writer) -> None:
    if w.nd != 2:
        return
    weights = w.linear(w.c, 9)
    w('y = functional.unfold(x, 3, padding=1)')
    if w.chance():
        # As outlook attention: every position weighs its neighbours.
        w(f'a = {weights}(x.flatten(2).mT).softmax(-1).mT')
        w('y = (y.unflatten(1, (-1, 9)) * a[:, None]).flatten(1, 2)')
    else:
        w.leave_unused(weights)
    w('x = x + functional.fold(y, x.shape[2:], 3, padding=1)')


@block(TOKENS, since=4400)
def messages(w: Writer) -> None:
    """As graph networks: edges read their ends and are summed up there."""
    width = w.width()
    a, b = w.linear(w.c, width), w.linear(w.c, width)
    w('n, l, c = x.shape')
    w('start = torch.arange(l).repeat(2)')
    w('end = torch.cat([start[l:].roll(1), start[:l] // 2])')
    w(f'y = {a}(x[:, start]).relu() * {b}(x)[:, end]')
    zeros = w.one_of(
        f'y.new_zeros(n, l, {width})', 'y.new_zeros(n, l, y.shape[-1])'
    )
    places = w.one_of(
        'end[None, :, None].expand_as(y)',
        'end.view(1, -1, 1).expand(n, -1, y.shape[-1])',
        'end[:, None].repeat(n, 1, y.shape[-1]).view_as(y)',
    )
    w(
        w.one_of(
            f'x = {zeros}.index_add_(1, end, y)',
            f'x = {zeros}.index_add(1, end, y)',
            f'x = {zeros}.scatter_add(1, {places}, y)',
            f"x = {zeros}.scatter_reduce(1, {places}, y, 'amax')",
            f"x = {zeros}.scatter_reduce_(1, {places}, y, 'mean', include_self=False)",
        )
    )
    w.c = width


@block(TOKENS, since=4400)
def hidden_tokens(w: Writer) -> None:
    """As masked autoencoders: some are encoded, the others one token."""
    width = w.width()
    layer, token = w.linear(w.c, width), w.parameter(1, 1, width)
    w('n, l, c = x.shape')
    w('order = torch.arange(l).flip(0).expand(n, l)')
    w('kept = order[:, : l // 2 + 1].unsqueeze(-1)')
    w(f'y = {layer}(x.gather(1, kept.repeat(1, 1, c)))')
    w(f'y = torch.cat([y, {token}.expand(n, l - y.shape[1], -1)], 1)')
    w(
        w.one_of(
            'x = y.gather(1, order.argsort(1)[..., None].expand_as(y))',
            'x = torch.zeros_like(y).scatter(1, order[..., None].expand_as(y), y)',
            'x = y[torch.arange(n)[:, None], order.argsort(1)]',
        )
    )
    w.c = width


@block(TOKENS, since=4400)
def sent_to_experts(w: Writer) -> None:
    """A sparse mixture: each token goes to its expert alone."""
    width = w.width()
    experts = ', '.join(w.linear(w.c, width) for _ in range(2))
    layers = w.part(f'nn.ModuleList([{experts}])')
    w(f'n, l, c = x.shape; y = x.reshape(-1, c); g = {w.linear(w.c, 2)}(y)')
    w(f'i = {COARSE.replace("x", "g")}.argmax(-1)')
    w(f'z = y.new_zeros(n * l, {width})')
    w(f'for k, layer in enumerate({layers}):')
    w('    at = (i == k).nonzero()[:, 0]')
    w(
        w.one_of(
            '    z = z.index_add(0, at, layer(y[at]) * g[at, k, None])',
            '    z[at] = layer(y[at])',
            '    z.index_copy_(0, at, layer(y[at]).relu())',
        )
    )
    w('x = z.view(n, l, -1)')
    w.c = width


@block(TOKENS, since=4400)
def heads_and_more(w: Writer) -> None:
    """Heads whose positions are pooled, summed, put in order or added to."""
    heads, each = w.rng.choice((2, 3)), w.rng.randint(2, 4)
    inner = heads * each
    q, k, v = (w.linear(w.c, inner) for _ in range(3))
    for name, layer in zip('qkv', (q, k, v), strict=True):
        w(
            f'{name} = {layer}(x).unflatten(-1, ({heads}, {each})).transpose(1, 2)'
        )
    null = w.parameter(1, heads, 1, each)
    change = w.one_of(
        'v = v.cumsum(2)',
        'q = q.mean(2, keepdim=True).expand_as(v)',
        'v = v - v.logsumexp(2, keepdim=True)',
        'k, v = k[:, :, ::2], v[:, :, ::2]',
        'k, v = (functional.pad(y, (0, 0, 1, 0)) for y in (k, v))',
        f'k, v = (torch.cat([{null}.expand(len(x), -1, -1, -1), y], 2) for y in (k, v))',
        'v = v * q.amax(2, keepdim=True)',
    )
    if null not in change:
        w.leave_unused(null)
    w(change)
    w('y = (q @ k.mT).tanh().tril(1) @ v')
    w(f'x = x + {w.linear(inner, w.c)}(y.transpose(1, 2).flatten(2))')
