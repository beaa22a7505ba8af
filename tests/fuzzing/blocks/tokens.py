# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Layers of sequences."""

from ..writer import TOKENS, Writer, block
from .gates import COARSE


@block(TOKENS)
def mlp(w: Writer) -> None:
    middle = w.width()
    norm, a, b = w.norm(w.c), w.linear(w.c, middle), w.linear(middle, w.c)
    w(f'x = x + {b}({w.act(f"{a}({norm}(x))")})')


@block(TOKENS)
def swiglu(w: Writer) -> None:
    middle = w.width()
    a, b, c = (
        w.linear(w.c, middle),
        w.linear(w.c, middle),
        w.linear(middle, w.c),
    )
    w(f'x = x + {c}(functional.silu({a}(x)) * {b}(x))')


@block(TOKENS)
def token_mixing(w: Writer) -> None:
    w.fixed = True
    middle = w.width()
    a, b = w.linear(w.size[0], middle), w.linear(middle, w.size[0])
    w(f'x = x + {b}({a}(x.transpose(1, 2)).relu()).transpose(1, 2)')


@block(TOKENS)
def convolved(w: Writer) -> None:
    width = w.width()
    layer = w.part(f'nn.Conv1d({w.c}, {width}, 3, padding=1)')
    w(f'x = {layer}(x.transpose(1, 2)).transpose(1, 2)')
    w.c = width


@block(TOKENS)
def recurrent(w: Writer) -> None:
    width = w.width()
    kind, more = (
        w.one_of('GRU', 'LSTM', 'RNN'),
        w.one_of('', ', bidirectional=True', ', num_layers=2'),
    )
    layer = w.part(f'nn.{kind}({w.c}, {width}, batch_first=True{more})')
    w(f'x = {layer}(x)[0]')
    w.c = width * (2 if 'bi' in more else 1)


@block(TOKENS)
def recurrent_cell(w: Writer) -> None:
    width = w.width()
    cell = w.part(f'nn.GRUCell({w.c}, {width})')
    w(f'h = x.new_zeros(len(x), {width})')
    w('steps = []')
    w('for y in x.unbind(1):')
    w(f'    h = {cell}(y, h)')
    w('    steps.append(h)')
    w('x = torch.stack(steps, 1)')
    w.c = width


@block(TOKENS)
def first_token(w: Writer) -> None:
    w('x = x[:, 0]')
    w.kind, w.size = 'vector', ()


@block(TOKENS)
def pooled_by_attention(w: Writer) -> None:
    layer = w.linear(w.c, 1)
    w(f'x = ({layer}(x).softmax(1) * x).sum(1)')
    w.kind, w.size = 'vector', ()


@block(TOKENS)
def shifted_tokens(w: Writer) -> None:
    w(
        w.one_of(
            'x = x.roll(1, 1)',
            'x = x + x.flip(1)',
            'x = x.cumsum(1)',
            'x = x - x.mean(1, keepdim=True)',
            'x = x.sort(1).values',
            'x = torch.cat([x[:, 1:], x[:, :1]], 1)',
            'x = x * x.softmax(1)',
        )
    )


@block(TOKENS)
def merged_tokens(w: Writer) -> None:
    if w.size[0] % 2:
        return
    width = w.width()
    w.fixed = True
    layer = w.linear(2 * w.c, width)
    w(
        f'x = {layer}({w.one_of("torch.cat([x[:, ::2], x[:, 1::2]], -1)", "x.reshape(len(x), -1, 2 * x.shape[-1])")})'
    )
    w.size, w.c = (w.size[0] // 2,), width


@block(TOKENS)
def state_space(w: Writer) -> None:
    decay = w.parameter(w.c)
    w('h, steps = torch.zeros_like(x[:, 0]), []')
    w('for y in x.unbind(1):')
    w(f'    h = h * {decay}.sigmoid() + y')
    w('    steps.append(h)')
    w('x = torch.stack(steps, 1)')


@block(TOKENS)
def tied_embedding(w: Writer) -> None:
    words = 7
    table = w.part(f'nn.Embedding({words}, {w.c})')
    w(f'y = functional.linear(x, {table}.weight)')
    w(
        w.one_of(
            f'x = x + {table}(y.argmax(-1))',
            f'x = y.softmax(-1) @ {table}.weight',
        )
    )


@block(TOKENS, since=6000)
def table_of_positions(w: Writer) -> None:
    table = w.part(f'nn.Embedding(5, {w.c})')
    index = w.one_of(
        'torch.arange(x.shape[1]) % 5',
        '(torch.arange(x.shape[1]) % 5).expand(x.shape[:2])',
        f'(({COARSE} > 0).sum(1) % 5)[:, :1]',
    )
    w(f'x = x + {table}({index})')


@block(TOKENS, since=6000)
def bags(w: Writer) -> None:
    """Every position adds rows that what it says picks."""
    mode = w.one_of("'sum'", "'mean'", "'max'")
    table = w.part(f'nn.EmbeddingBag(5, {w.c}, mode={mode})')
    w(f'y = {w.linear(w.c, 5)}(x).flatten(0, 1)')
    w(f'i = {COARSE.replace("x", "y")}')
    w('i = torch.stack([i.argmax(1), i.argmin(1)], 1)')
    w(f'x = x + {table}(i).view_as(x)')


@block(TOKENS)
def spectrum(w: Writer) -> None:
    w(
        w.one_of(
            'x = torch.fft.fft(x, dim=1).real',
            'x = torch.fft.irfft(torch.fft.rfft(x, dim=1), x.shape[1], dim=1)',
            'x = torch.fft.fft(x, dim=2).real',
        )
    )


@block(TOKENS)
def cross_attention(w: Writer) -> None:
    w.to_multiple(2)
    width = w.width()
    other = w.linear(w.c, width)
    layer = w.part(
        f'nn.MultiheadAttention({w.c}, 2, kdim={width}, vdim={width}, batch_first=True)'
    )
    w(f'y = {other}(x)')
    w(f'x = {layer}(x, y, y)[0]')
