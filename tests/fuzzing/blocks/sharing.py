# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Modules that are called twice, weights that are used elsewhere."""

from ..writer import MAP, TOKENS, VECTOR, Writer, block


@block()
def called_twice(w: Writer) -> None:
    layer = w.layer(w.c, w.c)
    w(
        w.one_of(
            f'x = {layer}({layer}(x).relu())',
            f'x = {layer}(x) + {layer}(-x)',
            f'x = {layer}({layer}(x)) + x',
        )
    )


@block(MAP)
def shared_between_norms(w: Writer) -> None:
    width = w.width()
    layer, a, b = w.conv(w.c, width), w.norm(width), w.norm(width)
    w(f'x = {a}({layer}(x)).relu() + {b}({layer}(x.flip(-1)))')
    w.c = width


@block()
def shared_block(w: Writer) -> None:
    width = w.width()
    a, b, norm = w.layer(w.c, width), w.layer(width, w.c), w.norm(width)
    block = w.part(f'nn.Sequential({a}, {norm}, nn.ReLU(), {b})')
    w('for _ in range(2):')
    w(f'    x = x + {block}(x)')


@block(TOKENS, VECTOR)
def tied_linear(w: Writer) -> None:
    width = w.width()
    layer = w.linear(w.c, width)
    w(f'y = {layer}(x).relu()')
    w(f'x = functional.linear(y, {layer}.weight.t())')
    if w.chance():
        w(f'x = x + y @ {layer}.weight')


@block()
def same_parameter(w: Writer) -> None:
    a, b = w.layer(w.c, w.c), w.layer(w.c, w.c)
    if (
        w.parts[-1].split(' = ')[1].split('bias')[0]
        != w.parts[-2].split(' = ')[1].split('bias')[0]
    ):
        w.leave_unused(a)
        w.leave_unused(b)
        return
    w.after(f'{b}.weight = {a}.weight')
    w(f'x = {b}({w.act(f"{a}(x)")})')


@block(MAP)
def functional_weight(w: Writer) -> None:
    width = w.width()
    layer = w.conv(w.c, width, 3)
    kernel = w.one_of(
        f'{layer}.weight',
        f'{layer}.weight * 0.3',
        f'{layer}.weight.abs()',
        f'{layer}.weight / {layer}.weight.norm()',
        f'{layer}.weight.flip(-1)',
        f'{layer}.weight + 0.1',
    )
    w(f'y = functional.conv{w.nd}d(x, {kernel}, padding=1)')
    if w.chance():
        w(f'x = y + {layer}(x)')
    else:
        w('x = y.relu()')
        w.leave_unused(f'{layer}.bias')
    w.c = width


@block(MAP)
def transposed_weight(w: Writer) -> None:
    width = w.width()
    layer = w.conv(w.c, width, 3)
    w(f'y = {layer}(x).relu()')
    w(
        w.one_of(
            f'x = functional.conv{w.nd}d(y, {layer}.weight.transpose(0, 1), padding=1)',
            f'x = functional.conv_transpose{w.nd}d(y, {layer}.weight, padding=1)',
            f'x = functional.conv_transpose{w.nd}d(y, {layer}.weight, padding=1) + x',
        )
    )


@block(MAP)
def standardised_weight(w: Writer) -> None:
    width = w.width()
    layer = w.conv(w.c, width, 3)
    dims = tuple(range(1, w.nd + 2))
    w(f'k = {layer}.weight')
    w(
        f'k = (k - k.mean({dims}, keepdim=True)) / (k.std({dims}, keepdim=True) + 1e-5)'
    )
    bias = w.one_of('None', f'{layer}.bias')
    if bias == 'None':
        w.leave_unused(f'{layer}.bias')
    w(f'x = functional.conv{w.nd}d(x, k, {bias}, padding=1)')
    w.c = width


@block()
def weight_norm(w: Writer) -> None:
    width = w.width()
    layer = w.layer(w.c, width)
    made = w.parts.pop().split(' = ', 1)[1]
    wrap = w.one_of(
        'nn.utils.parametrizations.weight_norm({})',
        'nn.utils.parametrizations.weight_norm({}, dim=None)',
        'nn.utils.parametrizations.spectral_norm({})',
    )
    w.after(f'{layer} = {wrap.format(made)}')
    w(f'x = {layer}(x).relu()')
    w.c = width


@block()
def modulated(w: Writer) -> None:
    width = w.width()
    layer, scale = w.layer(w.c, width), w.parameter(1)
    w(f'k = {layer}.weight * {scale}')
    call = f'conv{w.nd}d' if w.kind == MAP else 'linear'
    pad = f', padding={layer}.padding' if w.kind == MAP else ''
    w(f'x = functional.{call}(x, k, {layer}.bias{pad})')
    w.c = width


@block()
def bare_weight(w: Writer) -> None:
    width = w.width()
    if w.kind == MAP:
        weight = w.parameter(width, w.c, *(1 for _ in w.size))
        w(f'x = functional.conv{w.nd}d(x, {weight})')
    elif w.chance():
        weight = w.parameter(w.c, width)
        w(f'x = {w.one_of(f"x @ {weight}", f"torch.matmul(x, {weight})")}')
    else:
        weight = w.parameter(width, w.c)
        w(f'x = torch.einsum("...i,oi->...o", x, {weight})')
    w.c = width


@block(MAP)
def other_layers_bias(w: Writer) -> None:
    a, b = w.conv(w.c, w.c, 1, 'bias=True'), w.conv(w.c, w.c, 1, 'bias=True')
    w.after(f'{b}.bias = {a}.bias')
    w(f'x = {b}({a}(x).relu())')


@block(MAP)
def linear_as_convolution(w: Writer) -> None:
    width = w.width()
    layer = w.linear(w.c, width)
    ones = ', '.join('1' for _ in w.size)
    w(
        f'x = functional.conv{w.nd}d(x, {layer}.weight.view(*{layer}.weight.shape, {ones}), {layer}.bias)'
    )
    w.c = width
