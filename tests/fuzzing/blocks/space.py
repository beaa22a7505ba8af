# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pooling, pads, and what else changes the size of maps."""

from ..writer import MAP, Writer, block
from .gates import COARSE


def _halved(w: Writer) -> None:
    w.size = tuple(s // 2 for s in w.size)


@block(MAP)
def pool(w: Writer) -> None:
    if min(w.size) < 2:
        return
    nd = w.nd
    choices = [
        f'functional.max_pool{nd}d(x, 2)',
        f'functional.avg_pool{nd}d(x, 2)',
        f'functional.max_pool{nd}d(x, 2, return_indices=True)[0]',
    ]
    if nd < 3:
        choices.append(f'functional.lp_pool{nd}d(x.abs() + 0.1, 2.0, 2)')
    w(f'x = {w.one_of(*choices)}')
    _halved(w)


@block(MAP)
def adaptive_pool(w: Writer) -> None:
    size = tuple(w.rng.randint(1, 4) for _ in w.size)
    w(
        f'x = functional.adaptive_{w.one_of("avg", "max")}_pool{w.nd}d(x, {size})'
    )
    w.size = size


@block(MAP)
def same_size_pool(w: Writer) -> None:
    w(f'x = x + functional.{w.one_of("avg", "max")}_pool{w.nd}d(x, 3, 1, 1)')


@block(MAP)
def unpool(w: Writer) -> None:
    if any(s % 2 for s in w.size):
        return
    w.fixed = True
    w(f'y = functional.max_pool{w.nd}d(x, 2)')
    w(f'_, i = functional.max_pool{w.nd}d({COARSE}, 2, return_indices=True)')
    w(f'x = x + functional.max_unpool{w.nd}d(y.relu(), i, 2)')


@block(MAP)
def pyramid_pool(w: Writer) -> None:
    if w.nd != 2:
        return
    a = w.conv(w.c, w.width(), 1)
    width = int(w.parts[-1].split('(')[1].split(', ')[1])
    w(f'y = {a}(functional.adaptive_avg_pool2d(x, 2)).relu()')
    w(
        "y = functional.interpolate(y, x.shape[2:], mode='bilinear', align_corners=False)"
    )
    w('x = torch.cat([x, y], 1)')
    w.c += width
    w.to_width(w.width())


@block(MAP)
def resize(w: Writer) -> None:
    if w.positions > 40:
        w(
            f'x = functional.avg_pool{w.nd}d(x, 2)'
            if min(w.size) > 1
            else 'x = x'
        )
        if min(w.size) > 1:
            _halved(w)
    mode = w.one_of(
        'nearest',
        *{1: ['linear'], 2: ['bilinear', 'bicubic', 'area'], 3: ['trilinear']}[
            w.nd
        ],
    )
    w(f'x = functional.interpolate(x, scale_factor=2, mode={mode!r})')
    w.size = tuple(2 * s for s in w.size)


@block(MAP)
def top_down(w: Writer) -> None:
    if min(w.size) < 2:
        return
    width = w.width()
    a, b = w.conv(w.c, width, 1), w.conv(w.c, width, 3, 'stride=2')
    w(f'y = functional.interpolate({b}(x), x.shape[2:])')
    w(f'x = {a}(x) + y')
    w.c = width


@block(MAP)
def pads(w: Writer) -> None:
    mode = w.one_of('constant', 'reflect', 'replicate')
    if min(w.size) < 3 or (w.nd == 3 and mode == 'reflect'):
        mode = 'constant'
    pads = ', '.join('1, 1' for _ in w.size)
    value = w.one_of('', ', value=0.5') if mode == 'constant' else ''
    w(f'x = functional.pad(x, ({pads}), mode={mode!r}{value})')
    w.size = tuple(s + 2 for s in w.size)
    if w.positions > 60 or w.chance():
        pads = ', '.join('-1, -1' for _ in w.size)
        w(f'x = functional.pad(x, ({pads}))')
        w.size = tuple(s - 2 for s in w.size)


@block(MAP)
def pixel_shuffle(w: Writer) -> None:
    if w.nd != 2:
        return
    width = w.width() // 3 + 1
    layer = w.conv(w.c, width * 4)
    if w.positions > 40:
        w('x = functional.adaptive_avg_pool2d(x, 3)')
        w.size = (3, 3)
    w(f'x = functional.pixel_shuffle({layer}(x), 2)')
    w.c, w.size = width, tuple(2 * s for s in w.size)


@block(MAP)
def pixel_unshuffle(w: Writer) -> None:
    if w.nd != 2 or any(s % 2 for s in w.size):
        return
    w.fixed = True
    if w.c > 6:
        w.to_width(w.rng.randint(2, 6))
    w(
        w.one_of(
            'x = functional.pixel_unshuffle(x, 2)',
            'x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)',
        )
    )
    w.c *= 4
    _halved(w)
    w.to_width(w.width())


@block(MAP)
def patches(w: Writer) -> None:
    if w.nd != 2 or min(w.size) < 2:
        return
    width = w.width()
    layer = w.part(f'nn.Conv2d({w.c}, {width}, 2, stride=2)')
    w(f'x = {layer}(x)')
    w.c = width
    _halved(w)


@block(MAP)
def windows(w: Writer) -> None:
    if w.nd != 2 or any(s % 2 for s in w.size):
        return
    w.fixed = True
    layer = w.linear(w.c, w.c)
    h, v = w.size
    w(
        f'y = x.view(len(x), x.shape[1], {h // 2}, 2, {v // 2}, 2).permute(0, 2, 4, 3, 5, 1)'
    )
    w(f'y = {layer}(y.reshape(-1, 4, x.shape[1]))')
    w(
        f'y = y.view(len(x), {h // 2}, {v // 2}, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)'
    )
    w(f'x = x + y.reshape(len(x), -1, {h}, {v})')


@block(MAP)
def axial(w: Writer) -> None:
    if w.nd != 2:
        return
    width = w.width()
    layer = w.part(f'nn.Conv1d({w.c}, {width}, 3, padding=1)')
    w('n, c, h, v = x.shape')
    w('y = x.permute(0, 2, 1, 3).reshape(n * h, c, v)')
    w(f'x = {layer}(y).view(n, h, -1, v).permute(0, 2, 1, 3)')
    w.c = width


@block(MAP)
def shifted(w: Writer) -> None:
    if w.nd != 2:
        return
    cut = w.part_of(w.c)
    w(f'x = torch.cat([x[:, :{cut}].roll(1, 2), x[:, {cut}:].roll(-1, 3)], 1)')


@block(MAP)
def sampled(w: Writer) -> None:
    if w.nd != 2:
        return
    layer = w.conv(w.c, 2, 3)
    w(f'g = {layer}(x).tanh().permute(0, 2, 3, 1)')
    w('x = functional.grid_sample(x, g, align_corners=False)')
