# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Filters with the weights that read them, by loops over numbers."""

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError, ScoreContext, attach
from mmlapp.core.score import SCORES
from mmlapp.core.score.base import Reading


def mean_size(*tensors):
    """Mean magnitude of all numbers, one by one."""
    numbers = [abs(v) for t in tensors for v in t.flatten().tolist()]
    return sum(numbers) / len(numbers)


def scored(model, images):
    pruner = attach(model, images, score='cpmc', normalisation='none')
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
    reader = Reading(torch.tensor([[4.0, 6.0], [9, 9]]), torch.tensor([0, -1]))
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
