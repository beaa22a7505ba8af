# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Gates and attention over space and channels."""

from ..writer import MAP, TOKENS, VECTOR, Writer, block

# An order must not be that of rounding, where values should be equal.
COARSE = '(x * 1e6).round()'


@block(MAP)
def squeeze_excite(w: Writer) -> None:
    middle = w.width() // 2 + 1
    if w.chance():
        a, b = w.linear(w.c, middle), w.linear(middle, w.c)
        w(f'y = {b}({a}(x.mean({w.space})).relu()).sigmoid()')
        w('x = x * y.view(*y.shape, *[1] * (x.dim() - 2))')
        return
    a, b = w.conv(w.c, middle, 1), w.conv(middle, w.c, 1)
    w(f'y = functional.adaptive_avg_pool{w.nd}d(x, 1)')
    gate = w.one_of('sigmoid()', 'tanh()', 'softmax(1)')
    w(f'x = x * {b}({a}(y).relu()).{gate}')


@block(MAP)
def gate_with_skip(w: Writer) -> None:
    a, b = w.conv(w.c, w.c), w.conv(w.c, w.c)
    w(f'g = {b}(x).sigmoid()')
    w(f'x = x * (1 - g) + {a}(x).relu() * g')


@block(MAP)
def spatial_gate(w: Writer) -> None:
    layer = w.conv(2, 1, 3)
    w('y = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)')
    w(f'x = x * {layer}(y).sigmoid()')


@block(MAP)
def channel_convolution(w: Writer) -> None:
    layer = w.part('nn.Conv1d(1, 1, 3, padding=1, bias=False)')
    w(f'y = {layer}(x.mean({w.space})[:, None])[:, 0].sigmoid()')
    w('x = x * y.view(*y.shape, *[1] * (x.dim() - 2))')


@block(MAP)
def global_context(w: Writer) -> None:
    a, b = w.conv(w.c, 1, 1), w.linear(w.c, w.c)
    w(f'y = {a}(x).flatten(2).softmax(-1)')
    w('y = (x.flatten(2) @ y.transpose(1, 2))[..., 0]')
    w(f'y = {b}(y)')
    w('x = x + y.view(*y.shape, *[1] * (x.dim() - 2))')


@block(MAP)
def space_softmax(w: Writer) -> None:
    layer = w.conv(w.c, w.c)
    w(f'y = {layer}(x).flatten(2).softmax(-1)')
    w('x = x * y.view_as(x)')


def _spread(count: int) -> str:
    """How a deviation of so many values is no NaN: of one it is 0 / 0."""
    return '' if count > 1 else ', correction=0'


@block()
def over_channels(w: Writer) -> None:
    d, spread = w.dim, _spread(w.c)
    w(
        w.one_of(
            f'x = x - x.mean({d}, keepdim=True)',
            f'x = x * x.std({d}, keepdim=True{spread})',
            f'x = x / (1 + x.abs().amax({d}, keepdim=True))',
            f'x = x * x.softmax({d})',
            f'x = x + x.log_softmax({d})',
            f'x = x / (x.norm(dim={d}, keepdim=True) + 1)',
            f'x = x + x.logsumexp({d}, keepdim=True)',
            f'x = x * x.var({d}, keepdim=True{spread})',
            f'x = x + x.sum({d}, keepdim=True).sigmoid()',
            f'x = x * x.min({d}, keepdim=True).values',
            f'x = x + x.prod({d}, keepdim=True).tanh()',
            f'x = x - x.median({d}, keepdim=True).values',
        )
    )


@block()
def along_channels(w: Writer) -> None:
    d = w.dim
    w(
        w.one_of(
            f'x = x.cumsum({d})',
            f'x = x.sort({d}).values',
            f'x = {COARSE}.argsort(stable=True, dim={d}).to(x) + x',
            f'x = x * ({COARSE} >= {COARSE}.topk({max(1, w.c // 2)}, {d}).values.amin({d}, keepdim=True))',
            f'x = x.topk({w.c}, {d}).values',
            f'x = x + functional.one_hot({COARSE}.argmax({d}), {w.c}).to(x).movedim(-1, {d})',
            f'x = x.diff(dim={d}, prepend=x.narrow({d}, 0, 1))',
            f'x = x.gather({d}, x.argsort({d}))',
        )
    )


@block(MAP)
def along_space(w: Writer) -> None:
    w(
        w.one_of(
            'x = x.cumsum(2)',
            'x = x.sort(-1).values',
            'x = x.roll(1, -1)',
            'x = x.flip(-1)',
            'x = x + x.amax(-1, keepdim=True)',
            'x = x - x.mean(-1, keepdim=True)',
            f'x = x / (1 + x.std(-1, keepdim=True{_spread(w.size[-1])}))',
            'x = x + x.flatten(2).topk(min(2, x[0, 0].numel())).values.sum(-1).view(*x.shape[:2], *[1] * (x.dim() - 2))',
            'x = x * x.softmax(-1)',
            'x = x.gather(-1, x.argsort(-1))',
            'x = x.index_select(-1, torch.arange(x.shape[-1]).flip(0))',
            f'x = x + {COARSE}.argmax(-1, keepdim=True)',
        )
    )


@block()
def conditions(w: Writer) -> None:
    w(
        w.one_of(
            'x = torch.where(x > 0, x, -0.3 * x)',
            'x = x.masked_fill(x < 0, 0.5)',
            'x = x.masked_fill(x < 0, 0.0)',
            'x = torch.where(x > 0.1, x, torch.zeros_like(x))',
            'x = torch.where(x > 0.1, x, torch.ones_like(x))',
            'x = x * (x > x.mean())',
            'x = x.clamp(-1, 1)',
            'x = x.clamp(min=0.2)',
            'x = (x.abs() + 0.1).log()',
            'x = torch.maximum(x, x.mean())',
            'x = torch.lerp(x, x.relu(), 0.3)',
            'x = torch.addcmul(x, x, x.sigmoid())',
            'x = x.exp().log1p()',
            'x = 1 / (1 + x.square())',
            'x = x.cos()',
            'x = x.sub(1).mul(2).add(x)',
            'x = (x + 0.5).relu()',
            'x = x ** 2 + 1',
        )
    )


@block()
def product_of_layers(w: Writer) -> None:
    width = w.width()
    a, b = w.layer(w.c, width), w.layer(w.c, width)
    w(f'x = {a}(x) * {w.act(f"{b}(x)")}')
    w.c = width


@block()
def broadcast(w: Writer) -> None:
    w(f'x = x * {w.layer(w.c, 1)}(x)')
    if w.chance():
        w(f'x = x + {w.layer(w.c, 1)}(x).expand_as(x)')


@block(VECTOR, TOKENS)
def outer_product(w: Writer) -> None:
    if w.c > 8:
        w.to_width(w.rng.randint(2, 6))
    w(
        w.one_of(
            'x = (x[..., :, None] * x[..., None, :]).flatten(-2)',
            'x = torch.einsum("...i,...j->...ij", x, x).flatten(-2)',
        )
    )
    w.c **= 2
    w.to_width(w.width())
