# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Filters with the weights that read them, by loops over numbers."""

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError, ScoreContext, attach
from mmlapp.core.score import SCORES
from mmlapp.core.score.base import ChannelWeights


def mean_size(*tensors):
    """Mean magnitude of all numbers, one by one."""
    numbers = [abs(v) for t in tensors for v in t.flatten().tolist()]
    return sum(numbers) / len(numbers)


def scored(model, images, score='cpmc'):
    pruner = attach(model, images, score=score, normalisation='none')
    pruner.begin({'flops': 0.9}, 1)
    return dict(pruner.by_group(pruner.scores))


def test_a_filter_and_the_kernels_that_read_it(model, images):
    weights = {n: getattr(model, n).weight.detach() for n in 'abcd'}
    found = scored(model, images)
    for name, reader in ('ab', 'bc', 'cd'):
        own, read = weights[name], weights[reader]
        expected = [
            mean_size(own[n]) + mean_size(read[:, n]) for n in range(len(own))
        ]
        torch.testing.assert_close(found[name], torch.tensor(expected))


def test_several_readers_and_several_places_of_a_channel(net, conv, image):
    """Of a map of 8 x 8 a linear layer reads every channel 64 times."""
    model = net(
        lambda m, x: (m.c(m.a(x)).mean(), m.fc(m.a(x).flatten(1))),
        a=conv(3, 6),
        c=conv(6, 2),
        fc=nn.Linear(6 * 64, 3),
    )
    weights = {n: getattr(model, n).weight.detach() for n in ('a', 'c', 'fc')}
    expected = [
        mean_size(weights['a'][n])
        + mean_size(
            weights['c'][:, n], weights['fc'][:, 64 * n : 64 * (n + 1)]
        )
        for n in range(6)
    ]
    found = scored(model, image)['a']
    torch.testing.assert_close(found, torch.tensor(expected))


def test_what_stands_nowhere_and_what_nobody_reads():
    """Rows of channels 1, none and 0; channel 1 has no reader."""
    filters = torch.tensor([[1.0, -3.0], [2.0, 2.0], [0.5, 0.5]])
    reader = ChannelWeights(
        torch.tensor([[4.0, 6.0], [9, 9]]), torch.tensor([0, -1])
    )
    context = ScoreContext(
        filters, channels=torch.tensor([1, -1, 0]), readers=[reader]
    )
    assert SCORES.build('cpmc')(context).tolist() == [2, 2, 5.5]


def test_readers_are_read_past_their_masks(model, images):
    before = scored(model, images)['a'].clone()
    pruner = model.pruner
    pruner.finish()
    assert not pruner.mask.all()
    pruner.active = True
    again = pruner.scorer.compute(pruner.groups)[:8]
    assert torch.equal(again, before)


def test_a_reader_that_is_not_finite_is_named_by_what_it_reads(model, images):
    with torch.no_grad():
        model.d.weight.fill_(float('nan'))
    with pytest.raises(PruningError, match=r'scores of c are not finite'):
        scored(model, images)


def norm_of(*tensors):
    """Of all numbers together, one by one."""
    return sum(v * v for t in tensors for v in t.flatten().tolist()) ** 0.5


def test_the_norm_of_all_that_goes_with_a_channel(model, images):
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 1.5)
    weights = {n: getattr(model, n).weight.detach() for n in 'abcd'}
    scale = model.norm.weight.detach()
    found = scored(model, images, 'group_norm')
    for name, reader in ('ab', 'bc', 'cd'):
        own, read = weights[name], weights[reader]
        # A norm stands behind b alone.
        expected = [
            norm_of(own[n], read[:, n], *([scale[n]] if name == 'b' else []))
            for n in range(len(own))
        ]
        torch.testing.assert_close(found[name], torch.tensor(expected))


def test_all_layers_of_a_residual_stream_count_together(normed, image):
    """Two emit it, one of them with zeros in the place of some channels."""
    model = normed()
    parts = dict(model.named_modules())
    weights = {
        n: parts[n].weight.detach()
        for n in ('conv1', 'norm1', 'conv2', 'norm2', 'head')
    }
    found = scored(model, image, 'group_norm')
    inner = [
        norm_of(
            weights['conv1'][n], weights['norm1'][n], weights['conv2'][:, n]
        )
        for n in range(16)
    ]
    torch.testing.assert_close(found['conv1'], torch.tensor(inner))
    stem = {n: parts[n].weight.detach() for n in ('stem', 'stem_norm')}
    # Channels 0 to 7 of the stream come from the stem, too.
    stream = [
        norm_of(
            weights['conv2'][n],
            weights['norm2'][n],
            weights['head'][:, n],
            stem['stem'][n],
            stem['stem_norm'][n],
            weights['conv1'][:, n],
        )
        for n in range(8)
    ]
    torch.testing.assert_close(found['stem'], torch.tensor(stream))


def test_a_norm_behind_two_layers_counts_once(net, conv, image):
    model = net(
        lambda m, x: m.d((m.norm(m.a(x)) + m.norm(m.b(x))).relu()),
        a=conv(3, 6),
        b=conv(3, 6),
        norm=nn.BatchNorm2d(6),
        d=conv(6, 4),
    )
    weights = {n: getattr(model, n).weight.detach() for n in 'abd'}
    expected = [
        norm_of(
            weights['a'][n], weights['b'][n], weights['d'][:, n], torch.ones(1)
        )
        for n in range(6)
    ]
    found = scored(model, image, 'group_norm')['a']
    torch.testing.assert_close(found, torch.tensor(expected))
