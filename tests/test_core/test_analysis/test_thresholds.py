# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Code that branches on how many channels there are."""

import pytest
import torch
from mmcv.cnn import ConvModule
from mmcv.cnn import Linear as MMCVLinear
from torch import nn
from torchvision.ops import StochasticDepth

from mmlapp.core import analyse
from mmlapp.core.analysis import thresholds, unreached
from mmlapp.core.analysis.ways import Way
from mmlapp.core.forward_names import asks_in_training
from mmlapp.core.gathering import PAIR


class Attribute(nn.Module):
    """Branches on attributes that follow the channels that they count."""

    def __init__(self, limit):
        super().__init__()
        self.width, self.sizes, self.limit = 16, [16, 1], limit

    def forward(self, x):
        x = x.flatten(2).view(len(x), self.width, -1)
        x = x.view(len(x), self.sizes[0], 8, 8)
        few = self.width <= self.limit or self.sizes[0] <= self.limit
        return x.relu() if few else x.exp()


class Untied(nn.Module):
    """Branches on an attribute that counts nothing, and never changes."""

    width = 16

    def __init__(self):
        super().__init__()
        self.width = 16

    def forward(self, x):
        return x.tanh() if self.width > 1 else x.relu()


def chosen(x, first, second):
    return x.tanh() if first > second else x.relu()


def harmless(x, many):
    """The same in two ways, one for many channels."""
    return x + x if x.shape[1] > many else 2 * x


# Of 16 channels: what is computed, and how many of them must be left.
CODE = {
    'one left': (lambda m, x: m.f(x) if x.shape[1] > 1 else x.relu(), 2),
    'one equal': (lambda m, x: x.relu() if x.shape[1] == 1 else m.f(x), 2),
    'size': (lambda m, x: x.relu() if x.size(1) < 3 else m.f(x), 3),
    'from 4 on': (lambda m, x: m.f(x) if x.shape[1] >= 4 else x.relu(), 4),
    'neither': (lambda m, x: x.relu() if x.shape[1] in (1, 3) else m.f(x), 4),
    'as many': (lambda m, x: m.f(x) * min(x.shape[1], 3), 4),
    'a part': (
        lambda m, x: chosen(m.f(x), x.shape[1] // 2, 1),
        4,
    ),
    'one more': (
        lambda m, x: m.f(x) if x.shape[1] + 1 > 5 else x.relu(),
        5,
    ),
    'a part with a rest': (
        lambda m, x: m.f(x) if x.shape[1] // 3 > 1 else x.relu(),
        6,
    ),
    'some less': (
        lambda m, x: x.relu() if x.shape[1] - 2 <= 1 else m.f(x),
        4,
    ),
    'half of them': (
        lambda m, x: m.f(x) if x.shape[1] / 2 > 2 else x.relu(),
        5,
    ),
    'whether a part': (
        lambda m, x: m.f(x) if x.shape[1] // 3 else x.relu(),
        3,
    ),
    # More than a quarter: tried.
    'many': (lambda m, x: chosen(m.f(x), x.shape[1], 11), 12),
    'many, as many': (lambda m, x: m.f(x) * min(x.shape[1], 7), 8),
    'many, no harm': (lambda m, x: harmless(m.f(x), 11), 0),
    'two, one of them no harm': (
        lambda m, x: chosen(m.f(x), x.shape[1], (x.shape[1] > 13) * 0 + 6),
        7,
    ),
    'two, the larger one harms': (
        lambda m, x: chosen(m.f(x), x.shape[1], (x.shape[1] > 5) * 0 + 9),
        10,
    ),
    # Nothing that ever comes out otherwise.
    'never': (lambda m, x: chosen(m.f(x), 17, x.shape[1]), 0),
}


def made(net, conv, code, **parts):
    return net(
        lambda m, x: m.c(code(m, m.a(x))),
        a=conv(3, 16),
        c=conv(16, 5),
        **parts,
    )


@pytest.mark.parametrize('name', CODE)
def test_code_that_branches_goes_on_as_it_did(net, conv, image, agree, name):
    """With as many as its floor; the floors are counted by hand."""
    code, floor = CODE[name]
    # Depthwise, so that both branches have the channels of `a`.
    model = made(net, conv, code, f=conv(16, 16, groups=16))
    result = agree(model, image, keep=0.0)
    (group,) = result.pruner.groups
    assert group.floor == max(1, floor)


def test_branches_alike_where_all_is_positive(net, conv, image, agree):
    """As a trial with positive weights finds them, with one channel left."""
    model = net(
        lambda m, x: m.c(y.abs() if (y := m.a(x)).shape[1] > 1 else y.relu()),
        a=conv(3, 16),
        c=conv(16, 5),
    )
    model.a.bias = None
    torch.manual_seed(1)
    (group,) = agree(model, image.abs(), keep=0.0).pruner.groups
    assert group.floor == 2


@pytest.mark.parametrize('limit', [2, 5])
def test_attributes_that_follow(net, conv, image, agree, limit):
    model = made(net, conv, lambda m, x: m.f(x), f=Attribute(limit))
    (group,) = agree(model, image, keep=0.0).pruner.groups
    assert group.floor == limit + 1


def test_attributes_that_stay(net, conv, image, agree):
    model = made(net, conv, lambda m, x: m.f(x), f=Untied())
    (group,) = agree(model, image, keep=0.0).pruner.groups
    assert group.floor == 1


def test_several_groups_share_what_is_asked_for(net, conv, image, agree):
    """8 and 4 of 12: with 2 and 1 three are left, one more is asked for."""
    model = net(
        lambda m, x: m.c(m.joined(torch.cat([m.a(x), m.b(x)], 1))),
        a=conv(3, 8),
        b=conv(3, 4),
        c=conv(12, 5),
    )
    model.joined = lambda y: chosen(y, y.shape[1], 3)
    result = agree(model, image, keep=0.0)
    floors = {group.name: group.floor for group in result.pruner.groups}
    assert floors == {'a': 3, 'b': 2}


def test_of_two_none_can_go(net, conv, image, frozen):
    model = net(
        lambda m, x: m.c(chosen(m.a(x), m.a(x).shape[1], 1)),
        a=conv(3, 2),
        c=conv(2, 5),
    )
    assert frozen(model, image)['a'] == PAIR


def test_what_cannot_be_compared_keeps_what_is_asked_for(net, conv, image):
    """The loss may be what the branch changes."""
    model = made(net, conv, lambda m, x: harmless(x, 11))

    def loss():
        return model(image).sum()

    for also, floor in (([], 0), ([Way(loss, 'the loss', compare=False)], 12)):
        (group,) = analyse(model, image, also=also).groups.prunable
        assert group.floor == floor


def test_networks_without_such_code_are_not_run_for_it(
    net, conv, image, monkeypatch
):
    """A norm of torch checks a number of channels itself."""
    monkeypatch.setattr(thresholds, '_matters', None)
    model = net(
        lambda m, x: m.c(m.norm(m.a(x)).relu()),
        a=conv(3, 16),
        norm=nn.GroupNorm(4, 16),
        c=conv(16, 5),
    )
    assert len(analyse(model, image).groups.prunable) == 1


def doubled(x, whether):
    return 2 * x.relu() if whether else x


# Nothing of it can go.
ALL = 0
# Of y with 6 channels and z with 4: what decides, and how many must be left
# of them, counted by hand.
PAIRS = {
    'more': (lambda m, y, z: y.shape[1] > z.shape[1], 5, 1),
    'no fewer': (lambda m, y, z: not y.shape[1] < z.shape[1], 4, 1),
    'mirrored': (lambda m, y, z: z.shape[1] <= y.shape[1], 4, 1),
    'not as many': (lambda m, y, z: y.shape[1] != z.shape[1], 5, 1),
    'other shapes': (lambda m, y, z: y.shape != z.shape, 5, 1),
    'twice as many': (lambda m, y, z: 2 * z.shape[1] > y.shape[1], 1, ALL),
    'joined with it': (
        lambda m, y, z: torch.cat([y, z], 1).shape[1] > z.shape[1],
        1,
        1,
    ),
    'both joined': (
        lambda m, y, z: torch.cat([y, y], 1).size(1) > y.size(1) + z.size(1),
        5,
        1,
    ),
    'of a layer': (
        lambda m, y, z: m.b.in_channels != m.b.out_channels,
        5,
        1,
    ),
    'kept': (lambda m, y, z: m.widths[0] > m.widths[1], 5, 1),
    'a difference': (lambda m, y, z: y.shape[1] - z.shape[1] > 0, 5, 1),
    'a difference of one': (
        lambda m, y, z: y.shape[1] - z.shape[1] > 1,
        ALL,
        1,
    ),
    'less by two': (lambda m, y, z: z.shape[1] - y.shape[1] > -3, 1, ALL),
    'one more': (lambda m, y, z: y.shape[1] > z.shape[1] + 1, ALL, 1),
    'a quotient': (lambda m, y, z: y.shape[1] / z.shape[1] > 1, 5, 1),
    'a whole quotient': (lambda m, y, z: y.shape[1] // z.shape[1] > 1, 1, ALL),
    'elements': (lambda m, y, z: y.numel() > z.numel(), 5, 1),
    'thirds': (lambda m, y, z: y.shape[1] // 3 > z.shape[1] // 3, ALL, 1),
    'tuples': (lambda m, y, z: (4, y.shape[1]) < (z.shape[1], 7), 1, ALL),
}


@pytest.mark.parametrize('name', PAIRS)
def test_numbers_of_two_groups_compare_as_they_did(
    net, conv, image, agree_everywhere, name
):
    decides, *floors = PAIRS[name]

    def forward(m, x):
        y = m.a(x)
        z = m.b(y)
        assert [y.shape[1], z.shape[1]] == m.widths
        return m.c(doubled(z, decides(m, y, z)))

    kind = type('Compares', (nn.Module,), {'forward': forward})
    model = kind()
    model.a, model.b, model.c = conv(3, 6), conv(6, 4), conv(4, 5)
    model.widths = [6, 4]
    found = agree_everywhere(model.double(), image)
    wanted = zip('ab', floors, strict=True)
    assert found == {group: floor for group, floor in wanted if floor != ALL}


def test_as_many_until_one_of_them_has_fewer(
    net, conv, image, agree_everywhere
):
    """Tuples are compared by their first parts, if these differ."""

    def forward(m, x):
        y = m.a(x)
        z = m.b(y)
        return m.c(doubled(z, (y.shape[1], 0) < (z.shape[1], 0)))

    model = net(forward, a=conv(3, 8), b=conv(8, 8), c=conv(8, 5))
    # With fewer of the first one it would be true; of the other one, never.
    assert agree_everywhere(model, image) == {'b': 1}


@pytest.mark.parametrize(('fewer', 'floor'), [(4, 1), (3, 4)])
def test_two_groups_that_compare_without_harm(
    net, conv, image, agree_everywhere, fewer, floor
):
    """Four of six cost next to none, and are kept untried, unlike five."""

    def forward(m, x):
        y = m.a(x)
        z = m.b(y)
        return m.c(z + z if y.shape[1] > z.shape[1] else 2 * z)

    model = net(forward, a=conv(3, 6), b=conv(6, fewer), c=conv(fewer, 5))
    assert agree_everywhere(model, image) == {'a': floor, 'b': 1}


def test_a_projection_where_numbers_differ_stays(
    net, conv, image, agree_everywhere
):
    def forward(m, x):
        y, z = m.a(x), m.b(x)
        return m.c(y + (m.p(z) if y.shape[1] != z.shape[1] else z))

    model = net(
        forward, a=conv(3, 6), b=conv(3, 4), p=conv(4, 6), c=conv(6, 5)
    )
    assert agree_everywhere(model, image) == {'a': 5, 'b': 1}


@pytest.mark.parametrize('turned', [False, True])
def test_numbers_of_layers_are_those_of_their_weights(
    net, conv, image, agree_everywhere, turned
):
    layer = nn.ConvTranspose2d if turned else nn.Conv2d
    model = net(
        lambda m, x: m.c(doubled(m.a(x), m.c.in_channels > 3)),
        a=layer(3, 6, 3),
        c=layer(6, 5, 3),
    )
    assert agree_everywhere(model, image) == {'a': 4}


def in_training(m, x):
    """Asks for the number of channels in training alone."""
    return 2 * x if m.training and x.shape[1] > 9 else x


class Asking(nn.Module):
    def forward(self, x):
        return in_training(self, x)


class Kept(Asking):
    limit = 9

    def forward(self, x):
        if not self.training:
            return x
        return self.rare(x) if x.size(1) > self.limit else x

    def rare(self, x):
        return 2 * x


@pytest.mark.parametrize('kind', [Asking, Kept])
def test_code_that_branches_in_training_alone(
    net, conv, image, agree_everywhere, kind
):
    """In a function of its file, or in a method, by an attribute."""
    model = net(
        lambda m, x: m.c(m.f(m.a(x))), a=conv(3, 16), f=kind(), c=conv(16, 5)
    )
    assert agree_everywhere(model, image, train=True) == {'a': 10}


@pytest.mark.parametrize('limit', [11, 14])
def test_numbers_that_nobody_follows_in_training(
    net, conv, image, frozen, limit
):
    """On with all channels, and off as in evaluation with the few tried."""

    def forward(m, x):
        y = m.a(x)
        return m.c(2 * y if m.training and int(y.shape[1]) > limit else y)

    model = net(forward, a=conv(3, 16), c=conv(16, 5))
    assert 'compute something else' in frozen(model, image)['a']


def test_remainders_in_training_alone(net, conv, image, frozen):
    model = net(
        lambda m, x: m.c(
            y if m.training and (y := m.a(x)).shape[1] % 5 == 1 else m.a(x) * 2
        ),
        a=conv(3, 11),
        c=conv(11, 5),
    )
    assert 'compute something else' in frozen(model, image)['a']


@pytest.mark.parametrize('asks', [lambda n: n > 7, lambda n: n % 5 == 2])
def test_code_that_branches_in_another_way(net, conv, image, frozen, asks):
    model = net(
        lambda m, x: m.c(m.a(x)), a=conv(3, 11), b=conv(3, 4), c=conv(11, 5)
    )

    def other():
        y = model.a(image)
        return model.c(2 * y if asks(y.shape[1]) else y) * model.b(image).sum()

    also = [other]
    if asks(8):
        (group,) = (
            group
            for group in analyse(model, image, also=also).groups.prunable
            if group.name == 'a'
        )
        assert group.floor == 8
    else:
        assert 'compute' in frozen(model, image, also=also)['a']


def test_networks_that_do_not_ask_are_followed_once(conv, image, monkeypatch):
    """Also in training, where dropout asks for the mode."""
    seen = []
    monkeypatch.setattr(unreached, 'trace', lambda *_: seen.append(1))
    model = nn.Sequential(conv(3, 8), nn.Dropout(), nn.BatchNorm2d(8))
    analyse(nn.Sequential(model, conv(8, 2)).double(), image)
    assert not seen


def test_layers_of_libraries_do_not_ask():
    """Else most networks would be followed twice."""
    parts = ConvModule(3, 8, 1), MMCVLinear(8, 4), StochasticDepth(0.5, 'row')
    assert not any(map(asks_in_training, parts))
    assert asks_in_training(Asking())
    assert asks_in_training(Kept())
