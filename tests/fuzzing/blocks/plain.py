# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Chains, residual blocks, and what a network does beside."""

from ..writer import MAP, TOKENS, VECTOR, Writer, block


@block()
def chain(w: Writer) -> None:
    width = w.width()
    layer, norm = w.layer(w.c, width), w.norm(width)
    w(f'x = {w.act(f"{norm}({layer}(x))")}')
    w.c = width


@block()
def without_norm(w: Writer) -> None:
    width = w.width()
    w(f'x = {w.act(f"{w.layer(w.c, width)}(x)")}')
    w.c = width


@block()
def norm_behind_activation(w: Writer) -> None:
    width = w.width()
    layer, norm = w.layer(w.c, width), w.norm(width)
    w(f'x = {norm}({w.act(f"{layer}(x)")})')
    w.c = width


@block()
def stack(w: Writer) -> None:
    middle, width = w.width(), w.width()
    layers = [w.layer(w.c, middle), w.norm(middle), w.layer(middle, width)]
    names = [layer.removeprefix('self.') for layer in layers]
    line = ', '.join(f'self.{name}' for name in names)
    # Children of two parents: their names are those of the first one.
    sequence = w.part(f'nn.Sequential({line}, nn.ReLU())')
    w(f'x = {sequence}(x)')
    w.c = width


@block()
def residual(w: Writer) -> None:
    middle = w.width()
    a, norm, b = w.layer(w.c, middle), w.norm(middle), w.layer(middle, w.c)
    w(f'x = x + {b}({w.act(f"{norm}({a}(x))")})')


@block()
def residual_with_norms(w: Writer) -> None:
    width = w.width()
    w.to_width(width)
    middle = w.width()
    a, b = w.layer(w.c, middle), w.layer(middle, w.c)
    first, last = w.norm(middle), w.norm(w.c)
    if w.chance():  # as many recipes begin
        w.after(f'nn.init.zeros_({last}.weight)')
    inner = w.act(f'{first}({a}(x))')
    w(f'x = {w.act(f"({last}({b}({inner})) + x)")}')


@block()
def residual_projected(w: Writer) -> None:
    width = w.width()
    a, norm, b = w.layer(w.c, width), w.norm(width), w.layer(width, width)
    short = w.layer(w.c, width)
    w(f'y = {w.act(f"{norm}({a}(x))")}')
    w(f'x = {b}(y) + {short}(x)')
    w.c = width


@block()
def pre_activation(w: Writer) -> None:
    first, middle = w.norm(w.c), w.width()
    second = w.norm(middle)
    a, b = w.layer(w.c, middle), w.layer(middle, w.c)
    w(f'y = {a}({w.act(f"{first}(x)")})')
    w(f'x = x + {b}({w.act(f"{second}(y)")})')


@block()
def early_output(w: Writer) -> None:
    name = f'out{len(w.outputs)}'
    if w.chance():
        w(f'{name} = x')
    else:
        w(f'{name} = {w.layer(w.c, w.width())}(x)')
    w.outputs.append(name)


@block()
def dead_branch(w: Writer) -> None:
    w(f'unused = {w.layer(w.c, w.width())}(x).relu()')
    if w.chance():
        w(f'unused = {w.layer(w.c, w.c)}(x) + x')


@block()
def never_called(w: Writer) -> None:
    w.leave_unused(w.layer(w.c, w.width()))
    w.leave_unused(w.parameter(w.c))


@block()
def keyword_call(w: Writer) -> None:
    width = w.width()
    w(f'x = {w.layer(w.c, width)}(input=x)')
    w(f'x = {w.norm(width)}(input=x)')
    w.c = width


@block()
def frozen_parameters(w: Writer) -> None:
    width = w.width()
    layer = w.layer(w.c, width)
    w.after(f'{layer}.requires_grad_(False)')
    w(f'x = {w.act(f"{layer}(x)")}')
    w.c = width


@block()
def dropout(w: Writer) -> None:
    w(f'x = {w.part(w.one_of("nn.Dropout(0.2)", "nn.AlphaDropout(0.2)"))}(x)')
    if w.kind == MAP and w.nd < 3:
        w(f'x = {w.part(f"nn.Dropout{w.nd}d(0.2)")}(x)')


@block()
def stochastic_depth(w: Writer) -> None:
    w(f'y = {w.layer(w.c, w.c)}(x).relu()')
    w('if self.training:')
    w(
        '    y = y * (torch.rand(len(y)) > 0.2).to(y).view(-1, *[1] * (y.dim() - 1))'
    )
    w('x = x + y')


@block()
def checkpointed(w: Writer) -> None:
    width = w.width()
    layer = w.layer(w.c, width)
    reentrant = w.one_of('True', 'False')
    w(
        f'x = checkpoint(lambda y: {layer}(y).relu(), x, use_reentrant={reentrant})'
    )
    w.c = width


@block()
def batch_by_batch(w: Writer) -> None:
    width = w.width()
    layer = w.layer(w.c, width)
    if w.kind == VECTOR:
        w(f'x = torch.stack([{layer}(y) for y in x])')
    else:
        w(f'x = torch.cat([{layer}(y[None]) for y in x])')
    w.c = width


@block(MAP, TOKENS)
def to_vector(w: Writer) -> None:
    dims = w.space if w.kind == MAP else 1
    w(
        f'x = {w.one_of(f"x.mean({dims})", f"x.amax({dims})", f"x.sum({dims})")}'
    )
    w.kind, w.size = VECTOR, ()


@block(MAP)
def to_tokens(w: Writer) -> None:
    w('x = x.flatten(2).transpose(1, 2)')
    w.kind, w.size = TOKENS, (w.positions,)


@block(TOKENS)
def to_map(w: Writer) -> None:
    length = w.size[0]
    rows = next(r for r in range(int(length**0.5), 0, -1) if length % r == 0)
    w.nd, w.size = (
        (2, (rows, length // rows)) if w.chance(0.8) else (1, w.size)
    )
    if w.nd == 1:
        w('x = x.transpose(1, 2)')
    elif w.chance():
        w(
            f'x = x.permute(0, 2, 1).reshape(len(x), -1, {rows}, {length // rows})'
        )
    else:
        w('n, _, c = x.shape')
        w(
            f'x = x.transpose(1, 2).contiguous().view(n, c, {rows}, {length // rows})'
        )
    w.kind, w.fixed = MAP, w.fixed or w.nd == 2


@block(MAP)
def flatten_positions(w: Writer) -> None:
    w.fixed, width = True, w.width()
    layer = w.linear(w.c * w.positions, width)
    w(
        f'x = {layer}({w.one_of("x.flatten(1)", "x.contiguous().view(len(x), -1)", "x.reshape(x.size(0), -1)")})'
    )
    w.kind, w.size, w.c = VECTOR, (), width
