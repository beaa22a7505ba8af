# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Norms of every kind."""

from ..writer import MAP, TOKENS, VECTOR, Writer, block


def _after_layer(w: Writer, multiple: int = 1) -> None:
    width = w.width(multiple)
    w(f'x = {w.layer(w.c, width)}(x)')
    w.c = width


@block(MAP, VECTOR)
def group_norm(w: Writer) -> None:
    groups = w.rng.choice((1, 2, 3, 4))
    _after_layer(w, groups)
    affine = w.one_of('', ', affine=False')
    w(f'x = {w.act(w.part(f"nn.GroupNorm({groups}, {w.c}{affine})") + "(x)")}')


@block(MAP)
def group_norm_per_channel(w: Writer) -> None:
    _after_layer(w)
    w(f'x = {w.part(f"nn.GroupNorm({w.c}, {w.c})")}(x).relu()')


@block(MAP)
def layer_norm_permuted(w: Writer) -> None:
    _after_layer(w)
    more = w.one_of('', ', elementwise_affine=False', ', bias=False')
    norm = w.part(f'nn.LayerNorm({w.c}{more})')
    w(f'x = {norm}(x.movedim(1, -1)).movedim(-1, 1)')


@block(MAP)
def layer_norm_of_maps(w: Writer) -> None:
    _after_layer(w)
    w.fixed = True
    w(
        f'x = {w.part(f"nn.LayerNorm([{w.c}, {str(w.size)[1:-1].rstrip(chr(44))}])")}(x)'
    )


@block(MAP)
def instance_norm(w: Writer) -> None:
    if w.positions < 2:
        return
    _after_layer(w)
    more = w.one_of(
        '',
        ', affine=True',
        ', track_running_stats=True',
        ', affine=True, track_running_stats=True',
    )
    norm = w.part(f'nn.InstanceNorm{w.nd}d({w.c}{more})')
    w(f'x = {w.act(f"{norm}(x)")}')


@block(TOKENS, VECTOR)
def rms_norm(w: Writer) -> None:
    _after_layer(w)
    more = w.one_of('', ', elementwise_affine=False')
    w(f'x = {w.part(f"nn.RMSNorm({w.c}{more})")}(x)')


@block()
def rms_norm_by_hand(w: Writer) -> None:
    _after_layer(w)
    scale = w.parameter(w.c)
    w(
        f'x = x * (x.square().mean({w.dim}, keepdim=True) + 1e-6).rsqrt() * {scale}.view({w.ones})'
    )


@block(MAP)
def channel_norm_by_hand(w: Writer) -> None:
    _after_layer(w)
    scale, shift = w.parameter(w.c), w.parameter(w.c)
    w('mean = x.mean(1, keepdim=True)')
    w('var = (x - mean).square().mean(1, keepdim=True)')
    w(
        f'x = (x - mean) / (var + 1e-6).sqrt() * {scale}.view({w.ones}) + {shift}.view({w.ones})'
    )


@block(MAP)
def response_norm(w: Writer) -> None:
    _after_layer(w)
    w(f'x = {w.part("nn.LocalResponseNorm(3)")}(x)')


@block(MAP, VECTOR)
def batch_norm_variants(w: Writer) -> None:
    _after_layer(w)
    more = w.one_of(
        ', affine=False',
        ', track_running_stats=False',
        ', eps=0.1, momentum=None',
    )
    nd = w.nd if w.kind == MAP else 1
    w(f'x = {w.act(w.part(f"nn.BatchNorm{nd}d({w.c}{more})") + "(x)")}')


@block()
def unit_length(w: Writer) -> None:
    _after_layer(w)
    w(f'x = functional.normalize(x, dim={w.dim})')


@block(MAP)
def functional_norm(w: Writer) -> None:
    _after_layer(w)
    if w.chance(0.3):
        w('x = functional.layer_norm(x, x.shape[1:])')
        return
    scale, shift = w.parameter(w.c), w.parameter(w.c)
    if w.chance():
        w(f'x = functional.group_norm(x, 1, {scale}, {shift})')
        return
    mean = w.buffer(f'torch.randn({w.c})')
    var = w.buffer(f'torch.rand({w.c}) + 0.5')
    w(f'x = functional.batch_norm(x, {mean}, {var}, {scale}, {shift})')


@block(MAP)
def global_response_norm(w: Writer) -> None:
    _after_layer(w)
    scale, shift = w.parameter(w.c), w.parameter(w.c)
    w(f'g = (x.square().sum({w.space}, keepdim=True) + 1e-6).sqrt()')
    w('g = g / (g.mean(1, keepdim=True) + 1e-6)')
    w(f'x = x + x * g * {scale}.view({w.ones}) + {shift}.view({w.ones})')


@block(MAP)
def two_norms(w: Writer) -> None:
    _after_layer(w)
    a, b = w.norm(w.c), w.norm(w.c)
    w(
        w.one_of(
            f'x = {a}(x) + {b}(x).relu()',
            f'x = {b}({a}(x))',
            f'x = {a}(x) + {b}(x) * x',
            f'x = torch.cat([{a}(x), {b}(x)], 1).chunk(2, 1)[0]',
        )
    )


@block(MAP)
def norm_of_joined(w: Writer) -> None:
    width = w.width() // 2 + 1
    a, b = w.conv(w.c, width), w.conv(w.c, width)
    norm = w.norm(2 * width)
    w(f'x = {norm}(torch.cat([{a}(x), {b}(x)], 1)).relu()')
    w.c = 2 * width


@block(MAP, since=4000)
def norm_at_one_position(w: Writer) -> None:
    """In a gate, where one channel alone has no deviation."""
    groups = w.rng.choice((1, 1, 2, 3))
    middle = groups * w.rng.randint(2, 8)
    norm = w.part(
        w.one_of(
            f'nn.GroupNorm({groups}, {middle})',
            f'nn.GroupNorm({groups}, {middle}, affine=False)',
            f'Standardising({middle})',
            f'Standardising({middle}, affine=False)',
        )
    )
    a, b = w.conv(w.c, middle, 1), w.conv(middle, w.c, 1)
    w(f'y = {a}(x.mean({w.space}, keepdim=True))')
    # Of a single image PyTorch refuses a single number.
    y = w.one_of(f'{norm}(y)', f'torch.cat([{norm}(z) for z in y.split(1)])')
    w(f'x = x * {b}({y}.relu()).sigmoid()')


# Of an input whose channels come last.
OWN = (
    'x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()',
    'x - x.mean(-1, keepdim=True)',
    'x.softmax(-1)',
    'x / (1 + x.abs().amax(-1, keepdim=True))',
    'x - x.logsumexp(-1, keepdim=True)',
    'x.cumsum(-1) * 0.3',
    'functional.layer_norm(x, shape)',
    'functional.layer_norm(x, x.shape[-1:])',
    'functional.rms_norm(x, shape)',
)


@block(since=4400)
def norm_of_their_own(w: Writer) -> None:
    """A module that computes over its channels, whatever its class."""
    _after_layer(w)
    norm = w.part(f'Own({w.c}, lambda x, shape: {w.one_of(*OWN)})')
    if w.kind == MAP:
        w(f'x = {norm}(x.movedim(1, -1)).movedim(-1, 1)')
    else:
        w(f'x = {norm}(x)')


@block(TOKENS, since=4400)
def modulated_norm(w: Writer) -> None:
    """As DiT: a norm without parameters, scaled and shifted from outside."""
    a, both = w.linear(w.c, w.c), w.linear(w.c, 3 * w.c)
    norm = w.part(f'nn.LayerNorm({w.c}, elementwise_affine=False)')
    w(f's, b, g = {both}(x.mean(1, keepdim=True)).chunk(3, -1)')
    w(f'x = x + g * {a}({norm}(x) * (1 + s) + b)')
