# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What networks do to channels: followed, or frozen with a reason.

Masked, narrowed and counted must agree for each, whatever the trial would
have caught; see the fixture ``agree``.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, weight_norm
from torch.utils.checkpoint import checkpoint

CUT = 'cut at a position'


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def maps(x):
    return x.transpose(1, 2).unflatten(2, (8, 8))


def set_rows(x):
    x = x.clone()
    x[:, :, 2:4] = 1.0
    return x


def set_channel(x):
    x = x.clone()
    x[:, 2] = 1.0
    return x


def set_list(x):
    x = x.clone()
    x[:, [0, 5]] = 1.0
    return x


def add_to_half(x):
    x = x.clone()
    x[:, : x.shape[1] // 2] += 1
    return x


def halves_in_place(x):
    x = x.clone()
    a, b = x.chunk(2, 1)
    a.add_(b)
    return x


def write_into_zeros(x):
    y = x.new_zeros(2, 16, 8, 8)
    y[:, 8:] = x
    return y


def write_behind_zeros(x):
    width = x.shape[1]
    y = x.new_zeros(2, 2 * width, 8, 8)
    y[:, width:] = x
    return y


def fill_by_halves(x):
    width = x.shape[1]
    y = torch.empty(2, width + width, 8, 8, dtype=x.dtype)
    y[:, :width], y[:, width:] = x, x.sigmoid()
    return y


def fill_by_rows(x):
    y = torch.empty_like(x)
    y[..., ::2] = x[..., ::2]
    y[..., 1::2] = 2 * x[..., ::2] + 1
    return y


def write_into_a_wider_map(x):
    y = x.new_ones(*x.shape[:3], 12)
    y[..., 2:10] = x
    y[..., 0] = 0
    return y[..., :8]


def add_a_constant_of_each_channel(x):
    y = x.clone()
    y[:, :, 0] = torch.arange(8)[:, None].to(x)
    return y


def shift_in_time(x):
    """A quarter of the channels of each image go to the next, and back."""
    part = x.shape[1] // 4
    y = torch.zeros_like(x)
    y[1:, :part] = x[:-1, :part]
    y[:-1, part : 2 * part] = x[1:, part : 2 * part]
    y[:, 2 * part :] = x[:, 2 * part :]
    return y


def into_a_view(x):
    y = torch.zeros_like(x)
    seen = y.view(2, -1, 64)
    torch.exp(x, out=y)
    return seen.view_as(x)


# What happens between two convolutions, the channels that leave it, and how
# many of 8 are free behind it, or why none is.
FUNCTIONS = {
    'chunk': (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), 8, 4),
    'unsafe chunk': (
        lambda x: torch.cat(x.unsafe_chunk(2, 1)[::-1], 1),
        8,
        4,
    ),
    'tensor split': (
        lambda x: torch.cat(x.tensor_split([2, 5], 1)[::-1], 1),
        8,
        CUT,
    ),
    'unbind': (lambda x: torch.stack(x.unbind(1)[::-1], 1), 8, CUT),
    'channel by channel': (
        lambda x: torch.stack([x[:, i] * i for i in range(8)], 1),
        8,
        CUT,
    ),
    'image by image': (lambda x: torch.stack([t * 2 for t in x]), 8, 8),
    'cut in front': (lambda x: functional.pad(x, (0, 0, 0, 0, -2, 0)), 6, 6),
    'cut at both ends': (
        lambda x: functional.pad(x, (0, 0, 0, 0, -2, -1)),
        5,
        5,
    ),
    'cut and padded': (lambda x: functional.pad(x, (0, 0, 0, 0, -2, 2)), 8, 6),
    'out': (lambda x: torch.add(x, 1, out=torch.empty_like(x)), 8, 8),
    'out, seen otherwise': (into_a_view, 8, 8),
    'rows set': (set_rows, 8, 8),
    'a channel set': (set_channel, 8, CUT),
    'a list of channels set': (set_list, 8, 'constant of the code'),
    'half in place': (add_to_half, 8, 4),
    'one half into the other': (halves_in_place, 8, 4),
    'written into zeros': (write_into_zeros, 16, 'part of a tensor'),
    'written behind zeros': (write_behind_zeros, 16, 8),
    'filled by halves': (fill_by_halves, 16, 8),
    'filled by rows': (fill_by_rows, 8, 8),
    'written into a wider map': (write_into_a_wider_map, 8, 8),
    'a constant of each channel': (
        add_a_constant_of_each_channel,
        8,
        'no channel',
    ),
    'shifted in time': (shift_in_time, 8, 2),
    'masked': (lambda x: x.masked_fill(x <= 0, 1.0), 8, 8),
    'where': (lambda x: torch.where(x > 0, 1.0, x), 8, 8),
    'scatter': (
        lambda x: x.scatter(1, torch.zeros(2, 1, 8, 8).long(), 1.0),
        8,
        'scatter',
    ),
    'index add': (
        lambda x: x.index_add(1, torch.tensor([0]), x.new_ones(2, 1, 8, 8)),
        8,
        'index_add',
    ),
    'running sum': (lambda x: x.cumsum(1), 8, 'cumsum'),
    'sorted': (lambda x: x.sort(1).values, 8, 'sort'),
    'best': (lambda x: x.topk(4, 1).values, 4, 'topk'),
    'repeated': (lambda x: x.repeat_interleave(2, 1), 16, 8),
    'tiled': (lambda x: x.tile(1, 2, 1, 1), 16, 8),
    'rolled': (lambda x: x.roll(2, 1), 8, CUT),
    'window': (lambda x: x.unfold(1, 2, 2).sum(-1), 4, CUT),
    'fold': (
        lambda x: functional.fold(
            functional.unfold(x, 2, stride=2), 8, 2, stride=2
        ),
        8,
        8,
    ),
    'unshuffled pixels': (lambda x: functional.pixel_unshuffle(x, 2), 32, 8),
    'unit length': (
        lambda x: functional.normalize(x, dim=1),
        8,
        8,
    ),
    'distances': (
        lambda x: x * torch.cdist(tokens(x), tokens(x)).mean(),
        8,
        '_dist',
    ),
    'spectrum': (lambda x: torch.fft.fft2(x).real, 8, 8),
    'sampled': (
        lambda x: functional.grid_sample(
            x, x.new_zeros(2, 8, 8, 2), align_corners=False
        ),
        8,
        8,
    ),
    'resized by area': (
        lambda x: functional.interpolate(x, size=5, mode='area'),
        8,
        8,
    ),
    'instance norm': (functional.instance_norm, 8, 8),
    'local response': (
        lambda x: functional.local_response_norm(x, 3),
        8,
        'resized by aten::avg_pool3d',
    ),
    'image without a batch': (
        lambda x: torch.stack([functional.max_pool2d(t, 2) for t in x]),
        8,
        8,
    ),
    'mean without a batch': (
        lambda x: torch.stack(
            [functional.adaptive_avg_pool2d(t, 2) for t in x]
        ),
        8,
        8,
    ),
    'attention': (
        lambda x: maps(
            functional.scaled_dot_product_attention(*[tokens(x)] * 3)
        ),
        8,
        'scale',
    ),
    'attention with a mask': (
        lambda x: maps(
            functional.scaled_dot_product_attention(
                *[tokens(x)[:, None]] * 3,
                attn_mask=torch.ones(64, 64).tril() > 0,
            )[:, 0]
        ),
        8,
        'scale',
    ),
    'mapped': (lambda x: torch.vmap(lambda t: t * 2)(x), 8, 8),
    'gram': (
        lambda x: (
            torch.einsum('bchw,bdhw->bcd', x, x) @ x.flatten(2)
        ).unflatten(2, (8, 8)),
        8,
        8,
    ),
    'no element': (lambda x: x * (1 + x[x > 1e9].sum()), 8, 'no elements'),
    'last of a quantile': (
        lambda x: x * x.quantile(0.5, 1, keepdim=True),
        8,
        'sort',
    ),
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_functions(net, conv, image, agree, frozen, name):
    function, width, expected = FUNCTIONS[name]
    model = net(
        lambda m, x: m.c(m.b(function(m.a(x)))),
        a=conv(3, 8),
        b=conv(width, 6),
        c=conv(6, 5),
    )
    reasons = frozen(model, image)
    if isinstance(expected, str):
        assert expected in reasons['a']
    free = {} if isinstance(expected, str) else {'a': expected}
    assert agree(model, image).groups == {**free, 'b': 6}


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def parametrised():
    layer = nn.Conv2d(8, 8, 3, padding=1)
    parametrize.register_parametrization(layer, 'weight', Halved())
    return layer


def embedded(m, x):
    return x + m.part((x[:, 0] * 0).long()).movedim(3, 1)


@pytest.mark.filterwarnings('ignore::FutureWarning')
def old_weight_norm():
    return weight_norm(nn.Conv2d(8, 8, 3, padding=1))


# A module in between, how it is called, what it emits, and how many of the 8
# channels before it and of its own are free, or why those before it are not.
PARTS = {
    'weight norm': (
        lambda: parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1)),
        lambda m, x: m.part(x),
        {'a': 8, 'part.parametrizations.weight': 8},
        None,
    ),
    'old weight norm': (
        old_weight_norm,
        lambda m, x: m.part(x),
        {'a': 8, 'part': 8},
        None,
    ),
    'spectral norm': (
        lambda: parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1)),
        lambda m, x: m.part(x),
        {'a': 8, 'part.parametrizations.weight': 8},
        None,
    ),
    'parametrised': (
        parametrised,
        lambda m, x: m.part(x),
        {'a': 8, 'part.parametrizations.weight': 8},
        None,
    ),
    'attention': (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        lambda m, x: maps(m.part(*[tokens(x)] * 3)[0]),
        {'a': 8, 'part': 2, 'part.out_proj': 8},
        None,
    ),
    'recurrent': (
        lambda: nn.LSTM(8, 8, batch_first=True),
        lambda m, x: maps(m.part(tokens(x))[0]),
        {'a': 8, 'part': 8},
        None,
    ),
    'bilinear': (
        lambda: nn.Bilinear(8, 8, 8),
        lambda m, x: x * m.part(*[x.mean((2, 3))] * 2)[..., None, None],
        {},
        '_trilinear',
    ),
    'embedding': (
        lambda: nn.Embedding(4, 8),
        embedded,
        {},
        CUT,
    ),
    'checkpointed': (
        lambda: nn.Conv2d(8, 8, 3, padding=1),
        lambda m, x: checkpoint(m.part, x, use_reentrant=False),
        {'a': 8, 'part': 8},
        None,
    ),
    'mapped': (
        lambda: nn.Conv1d(8, 8, 3, padding=1),
        lambda m, x: torch.vmap(m.part, 3, 3)(x),
        {'a': 8, 'part': 8},
        None,
    ),
    'by name': (
        lambda: nn.Sequential(nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1)),
        lambda m, x: m.part[1](input=m.part[0](input=x)),
        {'a': 4, 'part.1': 8},
        None,
    ),
    'rows': (
        lambda: nn.Linear(8, 8),
        lambda m, x: m.part(x),
        {'a': 8},
        None,
    ),
    'without a batch': (
        lambda: nn.Conv2d(8, 8, 3, padding=1),
        lambda m, x: torch.stack([m.part(t) for t in x]),
        {'a': 8, 'part': 8},
        None,
    ),
}


@pytest.mark.filterwarnings('ignore::FutureWarning')
@pytest.mark.parametrize('name', PARTS)
def test_modules(net, conv, image, agree, frozen, name):
    build, call, expected, reason = PARTS[name]
    model = net(
        lambda m, x: m.c(m.b(call(m, m.a(x)))),
        a=conv(3, 8),
        part=build(),
        b=conv(8, 6),
        c=conv(6, 5),
    )
    if reason is not None:
        assert reason in frozen(model, image)['a']
    assert agree(model, image).groups == {**expected, 'b': 6}
