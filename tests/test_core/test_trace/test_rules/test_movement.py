# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Data movement: the masked and the narrowed network must agree."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import analyse

CUT = 'cut at a position that is a constant of the code'
SURPLUS = 'the surplus of a piece over the last one, where it is cut unevenly'
OUTPUT = 'output of the network'
LOST = 'moved in a way that mixes channels with other dimensions'


def shuffle(x, groups):
    n, c, h, w = x.shape
    x = x.view(n, groups, c // groups, h, w).transpose(1, 2)
    return x.reshape(n, c, h, w)


def tokens_and_back(x):
    n, c, h, w = x.shape
    return x.flatten(2).transpose(1, 2).permute(0, 2, 1).view(n, c, h, w)


# Every channel is free to go on its own.
FREE = {
    'clone': torch.clone,
    'joined with zeros': lambda x: torch.cat([x, torch.zeros_like(x)], 2),
    'joined with ones': lambda x: torch.cat([torch.ones_like(x), x], 2),
    'new': lambda x: x + x.new_ones(()),
    'contiguous': lambda x: x.transpose(2, 3).contiguous(),
    'detach': torch.detach,
    'expand': lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8),
    'flip': lambda x: x.flip(3),
    'flip channels': lambda x: x.flip(1),
    'pad space': lambda x: functional.pad(x, (3, 3, 3, 3)),
    'roll': lambda x: x.roll(1, dims=2),
    'slice space': lambda x: functional.pad(x[:, :, ::2, 1:], (0, 1, 0, 4)),
    'squeeze': lambda x: x.unsqueeze(2).squeeze(2),
    'tokens': tokens_and_back,
    'unfold rows': lambda x: x.unfold(3, 2, 2).flatten(3),
    'gather rows': lambda x: x[:, :, torch.tensor([3, 1, 2])],
    'split space': lambda x: torch.cat(x.split(3, dim=2)[::-1], dim=2),
    'stack': lambda x: torch.stack([x, x], dim=2).flatten(2, 3),
    'permute': lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    'float': lambda x: x.float().double(),
}


@pytest.mark.parametrize('name', FREE)
def test_free_channels(net, conv, image, agree, name):
    move = FREE[name]
    model = net(lambda m, x: m.b(move(m.a(x))), a=conv(3, 8), b=conv(8, 5))
    result = agree(model, image)
    assert result.groups == {'a': 8}


# Equal parts of the channels must go together.
TIED = {
    'shuffle': (lambda x: shuffle(x, 2), 8, 4),
    'shuffle by torch': (lambda x: functional.channel_shuffle(x, 4), 8, 2),
    'halves': (lambda x: torch.cat(x.chunk(2, dim=1)[::-1], dim=1), 8, 4),
    'second half': (lambda x: x[:, x.shape[1] // 2 :], 4, 4),
    'sum of halves': (lambda x: sum(x.chunk(2, dim=1)), 4, 4),
    'gate': (lambda x: torch.mul(*x.chunk(2, dim=1)), 4, 4),
    'maxout': (lambda x: x.unflatten(1, (2, -1)).amax(dim=1), 4, 4),
    'pixel shuffle': (lambda x: functional.pixel_shuffle(x, 2), 2, 2),
}


@pytest.mark.parametrize('name', TIED)
def test_tied_channels(net, conv, image, agree, name):
    move, outputs, free = TIED[name]
    model = net(
        lambda m, x: m.b(move(m.a(x))), a=conv(3, 8), b=conv(outputs, 5)
    )
    result = agree(model, image)
    assert result.groups == {'a': free}


@pytest.mark.parametrize(
    ('width', 'pieces', 'tied'), [(8, 3, 2), (11, 4, 2), (13, 3, 3)]
)
def test_chunks_with_a_shorter_last_one(
    net, conv, image, agree, width, pieces, tied
):
    """13 in 3 is 5, 5, 3: with one of the three tied gone 4, 4, 2."""

    def forward(m, x):
        x = m.a(x)
        chunks = [m.scale[i] * c for i, c in enumerate(x.chunk(pieces, dim=1))]
        return m.b(torch.cat(chunks[::-1], dim=1))

    model = net(
        forward,
        a=conv(3, width),
        b=conv(width, 5),
        scale=torch.arange(1.0, pieces + 1),
    )
    result = agree(model, image)
    assert result.groups == {'a': tied}
    kept = pieces * max(1, tied // 2) + width - pieces * tied
    assert result.slim.a.out_channels == kept


def test_pieces_of_the_codes_own_lengths(net, conv, image):
    def forward(m, x):
        left, right = m.a(x).split([5, 3], dim=1)
        return m.b(torch.cat([right, left], dim=1))

    model = net(forward, a=conv(3, 8), b=conv(8, 5)).eval()
    found = analyse(model, lambda: model(image))
    assert not found.groups.prunable
    reason = 'the network does not run with fewer of them'
    assert {SURPLUS, reason} < {g.frozen for g in found.groups.items}


def test_pixel_shuffle_ties_the_pixels_of_a_channel(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(functional.pixel_shuffle(m.a(x), 2)),
        a=conv(3, 8),
        b=conv(2, 5),
    )
    result = agree(model, image)
    kept = result.plan.slices['a.weight'][0].index
    assert kept in {(0, 1, 2, 3), (4, 5, 6, 7)}


def test_pixel_unshuffle_repeats_a_channel(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(functional.pixel_unshuffle(m.a(x), 2)),
        a=conv(3, 4),
        b=conv(16, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 4}
    assert len(result.plan.slices['b.weight'][1].index) == 8


def test_windows_of_pixels_repeat_a_channel(net, conv, image, agree):
    """As patches are merged: four pixels of each channel."""

    def forward(m, x):
        return m.fc(functional.unfold(m.a(x), 2, stride=2).transpose(1, 2))

    model = net(forward, a=conv(3, 8), fc=nn.Linear(32, 5))
    result = agree(model, image)
    assert result.groups == {'a': 8}
    assert result.slim.fc.in_features == 16


def test_windows_of_pixels_are_added_up_again(net, conv, image, agree):
    """As outlook attention does (VOLO, arXiv 2106.13112)."""

    def forward(m, x):
        windows = functional.unfold(m.a(x), 3, padding=1)  # [N, 9 C, L]
        heads = windows.view(len(x), 2, -1, 9, 64).softmax(3)
        whole = functional.fold(heads.flatten(1, 3), (8, 8), 3, padding=1)
        one = functional.fold(windows[0], (8, 8), 3, padding=1)
        return m.b(whole * one)

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 4}


def test_flatten_before_linear(net, conv, image, agree):
    model = net(
        lambda m, x: m.fc(m.a(x).flatten(1)),
        a=conv(3, 8),
        fc=nn.Linear(8 * 64, 5),
    )
    result = agree(model, image)
    assert result.slim.fc.in_features == 4 * 64


def test_concatenation_keeps_both_sources_apart(net, conv, image, agree):
    model = net(
        lambda m, x: m.c(torch.cat([m.a(x), x, m.b(x)], dim=1)),
        a=conv(3, 8),
        b=conv(3, 6),
        c=conv(17, 5),
    )
    assert agree(model, image).groups == {'a': 8, 'b': 6}


@pytest.mark.parametrize('batch', [1, 2])
def test_pooling_to_one_pixel_where_channels_come_last(
    net, conv, agree, batch
):
    """PyTorch ends it with as_strided, which could do anything."""
    image = torch.randn(batch, 3, 8, 8, dtype=torch.float64)
    image = image.to(memory_format=torch.channels_last)
    model = net(
        lambda m, x: m.b(functional.adaptive_avg_pool2d(m.a(x), 1)),
        a=conv(3, 8),
        b=conv(8, 5),
    ).to(memory_format=torch.channels_last)
    assert agree(model, image).groups == {'a': 8}


@pytest.mark.parametrize(
    ('size', 'stride'),
    [((1, 8, 1, 1), (0, 0, 0, 0)), ((1, 8, 2, 1), (8, 1, 4, 1))],
)
def test_other_strides_are_frozen(net, conv, frozen, size, stride):
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)

    def forward(m, x):
        x = m.a(x).mean((2, 3), keepdim=True)
        return m.b(x.as_strided(size, stride, 0).mean(2, keepdim=True))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    if size[2] > 1:  # reads behind the end otherwise
        image, model.a = torch.cat([image, image]), conv(3, 8).double()
    assert frozen(model, image)['a'] == LOST


def test_dense_block(net, conv, image, agree):
    def forward(m, x):
        x = m.stem(x)
        for layer in (m.a, m.b):
            x = torch.cat([x, layer(x.relu())], dim=1)
        return m.c(x)

    model = net(
        forward, stem=conv(3, 6), a=conv(6, 4), b=conv(10, 4), c=conv(14, 5)
    )
    assert agree(model, image).groups == {'stem': 6, 'a': 4, 'b': 4}


def test_zero_padded_shortcut(net, conv, image, agree):
    """Option A of ResNet: the new channels belong to one layer alone."""

    def forward(m, x):
        x = m.a(x)
        short = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 4))
        return m.c(short + m.b(x))

    model = net(forward, a=conv(3, 4), b=conv(4, 8, stride=2), c=conv(8, 5))
    result = agree(model, image)
    assert result.groups == {'a': 4}  # b's last four meet only zeros


def test_channels_padded_with_a_value_are_masked_where_they_are_read(
    net, conv, image, agree
):
    def forward(m, x):
        x = functional.pad(m.a(x), (1, 1, 1, 1), value=0.7)
        return m.b(x)

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


FROZEN = {
    'unequal split': (CUT, lambda x: x.split([2, 6], dim=1)[1]),
    'every second': (
        CUT,
        lambda x: functional.pad(x[:, ::2], (0, 0, 0, 0, 0, 2)),
    ),
    'the middle': (
        CUT,
        lambda x: functional.pad(x[:, 2:6], (0, 0, 0, 0, 0, 2)),
    ),
    'one channel': (LOST, lambda x: x[:, :1].expand(-1, 6, -1, -1)),
    'select': (CUT, lambda x: x.select(1, 3)[:, None].expand(-1, 6, -1, -1)),
    'by index': (CUT, lambda x: x[:, torch.tensor([5, 0, 1, 2, 3, 4])]),
    'unbind': (CUT, lambda x: torch.stack(x.unbind(1)[:6], dim=1)),
    'roll by 3': (
        CUT,
        lambda x: functional.pad(x.roll(3, 1), (0, 0, 0, 0, 0, -2)),
    ),
    'windows': (CUT, lambda x: x.unfold(1, 3, 1).amax(-1)),
}


@pytest.mark.parametrize('name', FROZEN)
def test_what_counts_channels_by_constants_is_frozen(
    net, conv, image, frozen, name
):
    reason, move = FROZEN[name]
    model = net(lambda m, x: m.b(move(m.a(x))), a=conv(3, 8), b=conv(6, 5))
    assert frozen(model, image)['a'] == reason


def test_a_write_into_a_part_is_frozen(net, conv, image, frozen):
    def forward(m, x):
        canvas = x.new_zeros(2, 16, 8, 8)
        canvas[:, 4:12] = m.a(x)
        return m.b(canvas)

    model = net(forward, a=conv(3, 8), b=conv(16, 5))
    assert frozen(model, image)['a'] == 'written into a part of a tensor'


def test_a_write_of_all_is_followed(net, conv, image, agree):
    def forward(m, x):
        y = m.a(x)
        return m.b(x.new_zeros(y.shape).copy_(y))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


def test_a_write_to_a_size_that_the_code_knows(net, conv, image, frozen):
    def forward(m, x):
        return m.b(x.new_zeros(2, 8, 8, 8).copy_(m.a(x)))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    reason = 'the network does not run with fewer of them'
    assert frozen(model, image)['a'] == reason


def test_a_write_that_broadcasts_is_followed(net, conv, image, frozen):
    def forward(m, x):
        narrow = m.a(x).mean((0, 2, 3))[:, None, None]
        return m.b(x.new_zeros(2, len(narrow), 8, 8).copy_(narrow))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert 'reduced' not in frozen(model, image).get('a', '')
    assert frozen(model, image) == {'b': 'output of the network'}


def test_a_buffer_that_is_written_has_the_channels_of_what_is_written():
    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(2, 4)
            self.register_buffer('mean', torch.zeros(2))

        def forward(self, x):
            x = self.a(x)
            self.mean.copy_(x.detach().mean(0))
            return self.b(x)

    (group,) = analyse(Noting(), torch.rand(5, 3)).groups.prunable
    assert 'mean' in {member.site.name for member in group.members}


PUT = {
    'rows': lambda y, out: out.index_put_((torch.tensor([1, 0]),), y),
    'mask': lambda y, out: out.index_put_((torch.tensor([True, True]),), y),
    'space': lambda y, out: place(out, y, torch.tensor([3, 1, 0, 2])),
    'added': lambda y, out: out.index_put_(
        (torch.tensor([0, 0]),), y, accumulate=True
    ),
    'a number': lambda y, out: place(
        out + y, torch.tensor(0.3).double(), torch.tensor([2])
    ),
}


def place(out, y, rows):
    """Rows of the image, along a dimension behind the channels."""
    out[:, :, rows] = y if y.dim() == 0 else y[:, :, rows]
    return out


@pytest.mark.parametrize('name', PUT)
def test_what_is_put_into_a_tensor_keeps_its_channels(
    net, conv, image, agree, name
):
    def forward(m, x):
        y = m.a(x)
        return m.b(y + PUT[name](y, y.new_zeros(y.shape)))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


def test_what_is_put_at_channels_stays(net, conv, image, frozen):
    def forward(m, x):
        y = m.a(x)
        y[:, torch.tensor([0, 3])] = m.c(x)
        return m.b(y)

    model = net(forward, a=conv(3, 8), b=conv(8, 5), c=conv(3, 2))
    assert frozen(model, image) == {'a': CUT, 'b': OUTPUT, 'c': LOST}


@pytest.mark.parametrize('name', ['index_select', 'gather'])
def test_what_is_picked_keeps_its_channels(net, conv, image, agree, name):
    rows = torch.tensor([3, 1, 2])

    def forward(m, x):
        y = m.a(x)
        if name == 'index_select':
            return m.b(y.index_select(2, rows))
        shape = (2, y.shape[1], 3, 8)
        return m.b(y.gather(2, rows[:, None].expand(shape)))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}
