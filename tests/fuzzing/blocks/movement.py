# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Views and writes in place."""

from ..writer import MAP, Writer, block


def _own(w: Writer) -> None:
    """A tensor that may be written to."""
    width = w.width()
    w(f'x = {w.layer(w.c, width)}(x)')
    w.c = width


@block(MAP)
def written_slice(w: Writer) -> None:
    _own(w)
    a = w.part_of(w.c)
    w(
        w.one_of(
            f'x[:, :{a}] += 1',
            f'x[:, {a}:] *= 2',
            f'x[:, :{a}] = x[:, :{a}].relu()',
            f'x[:, :{a}] = 0',
            f'x[:, {a}:].mul_(0.5)',
            'x[:, ::2] += 0.5',
            'x[:, 0] = 1',
            'x[..., 0] = 0',
            'x[..., 0] += 1',
            f'x[:, :{a}].add_(x[:, :{a}].detach())',
        )
    )


@block()
def in_place(w: Writer) -> None:
    _own(w)
    w(
        w.one_of(
            'x.mul_(2).add_(0.5)',
            'functional.relu_(x)',
            'x.clamp_(-1, 1)',
            'x = x.relu_()',
            'x.sub_(x.mean())',
            'x += x.detach().sigmoid()',
            'x *= 0.5',
            'x.masked_fill_(x < 0, 0.1)',
            'x.copy_(x.detach() * 2)',
        )
    )


@block()
def view_in_place(w: Writer) -> None:
    _own(w)
    w('x = x.contiguous()')
    w('y = x.view(-1)')
    w(w.one_of('y += 1', 'y.mul_(0.5)', 'y[:3] = 0', 'functional.relu_(y)'))
    if w.chance():
        w('x = x + y.view_as(x)')


@block(MAP)
def filled_buffer(w: Writer) -> None:
    width = w.width()
    a, b = w.conv(w.c, width), w.conv(w.c, width)
    w(w.one_of(f'y = {a}(x)', f'y = {a}(x) + 0'))
    w('z = y.new_zeros(len(y), 2 * y.shape[1], *y.shape[2:])')
    w('z[:, :y.shape[1]] = y')
    w(f'z[:, y.shape[1]:] = {b}(x).relu()')
    w('x = z')
    w.c = 2 * width


@block(MAP)
def filled_of_fixed_size(w: Writer) -> None:
    width, more = w.width(), w.width() // 2 + 1
    a, b = w.conv(w.c, width), w.conv(w.c, more)
    w(f'z = torch.empty(len(x), {width + more}, *x.shape[2:], dtype=x.dtype)')
    w(f'z[:, :{width}] = {a}(x)')
    w(f'z[:, {width}:] = {b}(x)')
    w('x = z')
    w.c = width + more


@block()
def kept_width(w: Writer) -> None:
    width = w.width()
    layer, number = w.layer(w.c, width), w.part(str(width))
    if w.kind == MAP:
        w(f'x = {layer}(x).reshape(len(x), {number}, *x.shape[2:])')
    else:
        w(f'x = {layer}(x).reshape(*x.shape[:-1], {number})')
    w.c = width


@block(MAP)
def kept_division(w: Writer) -> None:
    heads = w.rng.choice((2, 3))
    width = w.width(heads)
    layer, each = w.conv(w.c, width), w.part(str(width // heads))
    w(f'y = {layer}(x)')
    w(f'y = y.view(len(y), -1, {each}, *y.shape[2:])')
    w(
        w.one_of(
            'y = y.softmax(1)',
            'y = y - y.mean(1, keepdim=True)',
            'y = y.relu()',
            'y = y.softmax(2)',
        )
    )
    w('x = y.flatten(1, 2)')
    w.c = width


@block()
def scaled_by_width(w: Writer) -> None:
    width = w.width()
    layer = w.layer(w.c, width)
    scale = w.one_of(
        'x.shape[1] ** -0.5',
        f'{w.part(f"{width} ** -0.5")}',
        '1 / x.numel()',
        'x.size(-1) ** 0.5',
    )
    w(f'x = {layer}(x)')
    w(f'x = x * {scale}')
    w.c = width


@block()
def squeezed(w: Writer) -> None:
    width = w.width()
    w(f'x = {w.layer(w.c, width)}(x)')
    w.c = width
    w(
        w.one_of(
            'x = x.unsqueeze(1).squeeze(1)',
            'x = x[None][0]',
            'x = x.unsqueeze(-1).flatten(-2)',
            'x = x.clone(memory_format=torch.contiguous_format)',
            'x = x.T.T' if w.kind == 'vector' else 'x = x.mT.mT',
            'x = x.movedim(1, 0).movedim(0, 1)',
            'x = x.double().contiguous()',
            'x = x.unflatten(0, (1, -1)).flatten(0, 1)',
        )
    )


@block(MAP)
def strided_view(w: Writer) -> None:
    if min(w.size) < 3:
        return
    w('y = x.unfold(-1, 2, 1).mean(-1)')
    w('x = x + functional.pad(y, (0, 1))')


@block(MAP)
def put_into_zeros(w: Writer) -> None:
    w('y = torch.zeros(x.shape, dtype=x.dtype)')
    w('y[torch.arange(len(x)).flip(0)] = x')
    w(w.one_of('x = x + y', 'x = torch.stack([x, y]).amax(0)'))


@block(MAP)
def filtered_in_frequency(w: Writer) -> None:
    w('y = torch.fft.rfft(x, dim=-1, norm="ortho")')
    change = w.one_of('y * y.abs().sigmoid()', 'y.conj()', 'y * 0.5j')
    w(f'x = x + torch.fft.irfft({change}, n=x.shape[-1], dim=-1)')
