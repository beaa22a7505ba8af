# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import PruningError, PruningWarning, analyse, attach, narrow
from mmlapp.core.analysis.unreached import TRAINING, possible_widths
from mmlapp.core.analysis.ways import Way


class Experts(nn.Module):
    """Bright and dark images go different ways."""

    def __init__(self, conv, dark=8):
        super().__init__()
        self.stem, self.fc = conv(3, 8), conv(4, 5)
        self.bright, self.dark = conv(8, 4), conv(dark, 4)

    def forward(self, x):
        h = self.stem(x)
        return self.fc(self.bright(h) if x.mean() > 0 else self.dark(h))


def keep(model, pruner, share=2):
    pruner.set_mask(
        torch.cat([torch.arange(s) % share == 0 for s in pruner.sizes])
    )
    return narrow(model, pruner.plan())


def test_a_way_reaches_what_the_example_does_not(conv, image):
    model = Experts(conv).double()
    bright, dark = image.abs(), -image.abs()
    found = analyse(model, bright, also=[lambda: model(dark)])
    assert found.reach.ways == {'also[0]': ['dark']}
    assert found.reach.left == []
    # The multiply-adds are those of the example.
    assert found.flops == analyse(model, bright, unused='dark').flops
    pruner = attach(model, bright, analysis=found)
    sizes = {info.name: info.size for info in pruner.groups}
    assert sizes == {'stem': 8, 'bright': 4}
    pruner.active = True
    pruner.set_mask(torch.arange(12) % 2 == 0)
    masked = [model(x) for x in (bright, dark)]
    narrow(model, pruner.plan())
    for x, expected in zip((bright, dark), masked, strict=True):
        torch.testing.assert_close(model(x), expected)


def test_what_no_forward_reaches_is_refused(conv, image):
    model = Experts(conv).double()
    text = (
        r"reaches 'dark' \(such as dark.weight \[4, 8, 3, 3\]\).*"
        r"also=\[\.\.\.\].*unused=\['dark'\]"
    )
    with pytest.raises(PruningError, match=text):
        attach(model, image.abs())
    assert not hasattr(model, 'pruner')


def test_what_reads_nothing_that_is_pruned(conv, image):
    model = Experts(conv).double()
    pruner = attach(model, image.abs(), unused=['dark'])
    keep(model, pruner)
    assert model.bright.in_channels == 4
    assert model.dark.in_channels == 8


def test_what_cannot_fit_is_told(conv, image):
    """All sums of 8 and 4 are even."""
    model = Experts(conv)
    model.dark = nn.Linear(3, 3)
    with pytest.warns(PruningWarning, match="reaches 'dark'.*fit nothing"):
        found = analyse(model, image.float().abs())
    assert found.reach.left == ['dark.weight', 'dark.bias']
    model.dark = nn.Embedding(3, 12)
    with pytest.raises(PruningError, match="'dark'"):
        analyse(model, image.float().abs())


def test_nothing_is_refused_where_widths_stay(conv, image):
    model = Experts(conv)
    attach(model, image.float().abs(), unit='filters', bypass='depthwise')


def test_a_parameter_of_a_module_that_runs(conv, image):
    model = Experts(conv, dark=3)
    del model.dark
    model.token = nn.Parameter(torch.rand(1, 8, 1, 1))
    match = r"reaches 'token' \(such as token \[1, 8, 1, 1\].*=\['token'\]"
    with pytest.raises(PruningError, match=match):
        analyse(model, image.float().abs())
    with torch.no_grad():
        model.token.requires_grad_(False)
    analyse(model, image.float().abs(), unused='token')


def test_a_tensor_of_a_layer_whose_weight_is_used(net, conv, image):
    """The remedy names it alone, and it helps."""
    model = net(
        lambda m, x: m.b(nn.functional.conv2d(x, m.a.weight)),
        a=conv(3, 8),
        b=conv(8, 4),
    )
    match = r"reaches 'a.bias' \(such as a.bias \[8\].*unused=\['a.bias'\]"
    with pytest.raises(PruningError, match=match):
        analyse(model, image)
    analyse(model, image, unused=['a.bias'])


def test_a_way_that_does_not_run(conv, image):
    model = Experts(conv).double()
    with pytest.raises(PruningError, match=r'also\[0\] does not run \(Type'):
        analyse(model, image.abs(), also=[lambda: model()])


class Auxiliary(nn.Module):
    """A head that wakes up in training."""

    def __init__(self, conv):
        super().__init__()
        self.stem, self.fc, self.head = conv(3, 8), conv(8, 5), conv(8, 4)

    def forward(self, x):
        h = self.stem(x)
        return (self.fc(h), self.head(h)) if self.training else self.fc(h)


def test_a_head_that_wakes_up_in_training(conv, image):
    model = Auxiliary(conv).double()
    found = analyse(model, image)
    assert found.reach.ways == {TRAINING: ['head']}
    keep(model, attach(model, image, analysis=found))
    early, side = model.train()(image)
    assert (early.shape[1], side.shape[1]) == (5, 4)
    assert model.head.in_channels == 4


def test_what_cannot_be_followed_is_tried(conv, image):
    """A way that fails under the tracer still freezes what it needs."""
    hits = [0]

    def once():
        hits[0] += 1
        if hits[0] in (2, 3):  # with numbers that count, and without
            raise RuntimeError('under the tracer')
        return model.head(model.stem(image))

    model = Auxiliary(conv).double()
    # Without a mode of training in which the head runs as well.
    model.forward = lambda x: model.fc(model.stem(x))
    found = analyse(model, image, also=[Way(once, 'mine')])
    assert found.reach.untraced == {'mine': 'RuntimeError: under the tracer'}
    assert not found.groups.prunable
    assert 'does not run with fewer' in found.groups.items[0].frozen


class Momentum(nn.Module):
    """Its loss updates a twin, which then reads the image."""

    def __init__(self, conv):
        super().__init__()
        self.net = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 5))
        self.twin = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 5))
        self.twin.requires_grad_(False)
        self.head = conv(5, 2)

    def forward(self, x):
        return self.net(x)

    @torch.no_grad()
    def update(self):
        for mine, other in zip(
            self.twin.parameters(), self.net.parameters(), strict=True
        ):
            mine.data.mul_(0.9).add_(other.data, alpha=0.1)

    def loss(self, x):
        self.update()
        return (self.head(self.net(x)) - self.twin(x)[:, :2]).square().mean()


def test_a_loss_that_updates_a_twin(conv, image):
    model = Momentum(conv).double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    way = Way(lambda: model.loss(image), 'loss', train=True, compare=False)
    pruner = attach(model, image, also=[way])
    assert [(g.name, g.size) for g in pruner.groups] == [('net.0', 8)]
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    keep(model, pruner)
    model.loss(image).backward()
    assert model.twin[0].weight.shape == model.net[0].weight.shape


def test_a_copy_would_get_no_branch(conv, image):
    model = Momentum(conv)
    arguments = dict(unused='head', bypass='pointwise')
    text = 'net.0 would get a branch and twin, which copies net, would not'
    with pytest.raises(PruningError, match=text):
        analyse(model, image.float(), **arguments)
    with pytest.raises(PruningError, match='would get a branch'):
        analyse(model, image.float(), unit='filters', **arguments)
    analyse(model, image.float(), unused='head')


@pytest.mark.parametrize(
    ('sizes', 'largest', 'expected'),
    [
        ([], 9, [0]),
        ([5], 16, [0, 5, 10, 15]),
        ([6, 9], 20, [0, 6, 9, 12, 15, 18]),
        ([3, 3, 7], 9, [0, 3, 6, 7, 9]),
    ],
)
def test_possible_widths(sizes, largest, expected):
    bits = possible_widths(sizes, largest)
    assert [i for i in range(largest + 1) if bits >> i & 1] == expected


class Refusing(nn.Module):
    """Reads a table in training alone, and then refuses to be trained."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)
        self.table = nn.Parameter(torch.rand(8))

    def forward(self, x):
        x = self.a(x)
        if self.training:
            x = x * self.table
        out = self.b(x)
        if self.training:
            raise NotImplementedError('distillation')
        return out


def test_what_training_reads_before_it_fails_is_followed():
    net = Refusing().eval()
    pruner = attach(net, torch.rand(2, 3))
    pruner.set_mask(torch.arange(8) < 3)
    assert pruner.plan().slices['table'][0].count == 3
