# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import PruningError, PruningWarning, analyse
from mmlapp.core.gathering import PAIR, Gathering
from mmlapp.core.trace import trace


@pytest.fixture
def model(net, conv):
    """Two stages and a head; the second stage is a residual block."""

    def forward(m, x):
        x = m.stage1(x)
        return m.head(x + m.stage2(x))

    return net(
        forward,
        stage1=nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 8)),
        stage2=nn.Sequential(conv(8, 4), nn.ReLU(), conv(4, 8)),
        head=conv(8, 5),
    )


@pytest.fixture
def groups(model, image):
    def find(**arguments):
        return analyse(model, lambda: model(image), **arguments).groups

    return find


def reasons(found):
    return {g.name: g.frozen for g in found.items if g.frozen}


def test_all_is_prunable_but_the_output(groups):
    found = groups()
    assert [(g.name, g.size) for g in found.prunable] == [
        ('stage1.0', 6),
        ('stage1.2', 8),
        ('stage2.0', 4),
    ]
    assert reasons(found) == {'head': 'output of the network'}


def test_scope_leaves_the_rest_alone(groups):
    found = groups(scope='stage1')
    assert [g.name for g in found.prunable] == ['stage1.0']
    assert reasons(found) == {
        # its channels are added to those of a layer outside
        'stage1.2': 'outside the scope: stage2.2',
        'stage2.0': 'outside the scope: stage2.0',
        'head': 'output of the network',
    }


def test_several_scopes(groups):
    found = groups(scope=['stage1', '*2'])
    assert len(found.prunable) == 3


def test_ignored_layers(groups):
    found = groups(ignore='stage1.0')
    assert [g.name for g in found.prunable] == ['stage1.2', 'stage2.0']
    assert reasons(found)['stage1.0'] == 'ignored by the user: stage1.0'


def test_a_scope_that_matches_nothing(groups):
    with pytest.raises(
        PruningError,
        match=r"scope='backbone' matches no.*below: head, stage1, stage2",
    ):
        groups(scope='backbone')


def test_one_scope_of_several_that_matches_nothing(groups):
    with pytest.raises(PruningError, match=r"scope='neck' matches no"):
        groups(scope=['stage1', 'neck'])


def test_an_ignore_that_matches_nothing_is_told(groups):
    with pytest.warns(PruningWarning, match=r"ignore='neck' matches no"):
        assert len(groups(ignore='neck').prunable) == 3


def test_a_network_without_channels(net, conv, image):
    model = net(lambda m, x: m.a(x), a=conv(3, 1))
    with pytest.raises(PruningError, match='no convolution or linear layer'):
        analyse(model, lambda: model(image))


def test_members_are_all_that_shrinks(groups):
    (group,) = [g for g in groups().prunable if g.name == 'stage1.2']
    sites = {(m.site.name, m.site.dim) for m in group.members}
    assert sites == {
        ('stage1.2.weight', 0),
        ('stage1.2.bias', 0),
        ('stage2.0.weight', 1),
        ('stage2.2.weight', 0),
        ('stage2.2.bias', 0),
        ('head.weight', 1),
    }


def test_groups_that_begin_at_one_layer_have_names_of_their_own(
    net, conv, image, agree
):
    """The first half of ``a`` is added to ``b``, padded; the other not."""

    def forward(m, x):
        small = nn.functional.pad(m.b(x), (0, 0, 0, 0, 4, 4))
        return m.c(torch.cat([m.a(x), m.d(x)], dim=1) + small)

    model = net(
        forward,
        a=conv(3, 8),
        b=conv(3, 8),
        d=conv(3, 8),
        c=conv(16, 5),
    )
    result = agree(model, image)
    assert result.groups == {'b': 4, 'b#2': 4}
    assert list(result.plan.groups) == ['b', 'b#2']
    assert list(result.pruner.keep_ratios()) == ['b', 'b#2']


SQUEEZED = {
    # Alone they would vanish with the pixels.
    'all dimensions': (lambda a, b: a.squeeze(), 8, {'a': 2}),
    'one dimension': (lambda a, b: a.squeeze(1).flatten(1), 8, {'a': 2}),
    'in place': (lambda a, b: a.clone().squeeze_(), 8, {'a': 2}),
    'tied': (lambda a, b: (a + b).squeeze(), 8, {'a': 2}),
    # These cannot: two channels or more are left in any case.
    'pixels': (lambda a, b: a.squeeze(-1).squeeze(-1), 8, {'a': 1}),
    'two groups': (lambda a, b: torch.cat([a, b], 1).squeeze(), 16, {'a': 1}),
    'twice': (lambda a, b: torch.cat([a, a], 1).squeeze(), 16, {'a': 1}),
    'beside a constant': (
        lambda a, b: torch.cat([a, b[:, :1] * 0 + 1], 1).squeeze(),
        9,
        {'a': 1},
    ),
}


@pytest.mark.parametrize('name', SQUEEZED)
def test_channels_that_are_squeezed(net, conv, image, agree, name):
    """As many are left as make the narrowed network run: here, that many."""
    squeeze, width, floors = SQUEEZED[name]
    pool = functional.adaptive_avg_pool2d
    model = net(
        lambda m, x: m.c(squeeze(pool(m.a(x), 1), pool(m.b(x), 1))),
        a=conv(3, 8),
        b=conv(3, 8),
        c=nn.Linear(width, 5),
    )
    result = agree(model, image, keep=0.0)
    found = {info.name: info.floor for info in result.pruner.groups}
    assert {name: found[name] for name in floors} == floors


def test_of_two_that_are_squeezed_none_can_go(net, conv, image, frozen):
    model = net(
        lambda m, x: m.c(m.b(m.a(x)).amax((2, 3), keepdim=True).squeeze()),
        a=conv(3, 8),
        b=conv(8, 2),
        c=nn.Linear(2, 5),
    )
    assert frozen(model, image)['b'] == PAIR


class Pyramid(nn.Module):
    """Looks for bright images in one level, for dark ones in the other."""

    def __init__(self, conv, rest):
        super().__init__()
        self.fine, self.coarse, self.head = conv(3, 8), conv(3, 8), conv(8, 4)
        self.rest = rest

    def forward(self, x):
        fine, coarse = self.fine(x), self.coarse(x)
        if x.mean() > 0:
            return self.head(fine) + self.rest(coarse)
        return self.head(coarse) + self.rest(fine)


@pytest.mark.parametrize(
    'rest',
    [
        lambda unused: 0,
        lambda unused: unused.sum() * 0,
        lambda unused: sum(part.sum() for part in unused.relu().split(2)) * 0,
    ],
)
def test_what_nothing_reads_stays(conv, image, rest):
    """Another image may lead to what reads it, at its full width."""
    model = Pyramid(conv, rest).double()
    groups = analyse(model, image.abs()).groups
    frozen = {group.name: group.frozen for group in groups.items}
    assert frozen == {
        'fine': None,
        'coarse': 'nothing that ran reads them',
        'head': 'output of the network',
    }
    # Both images together tell that one head reads both levels.
    groups = analyse(model, lambda: [model(image), model(-image)]).groups
    assert [(g.name, g.size) for g in groups.prunable] == [('fine', 8)]


class Training(nn.Module):
    """Has a second classifier in training alone, as GoogLeNet has."""

    def __init__(self, conv):
        super().__init__()
        self.stem, self.head = conv(3, 8), conv(8, 4)
        self.hidden, self.second = conv(8, 6), conv(6, 4)

    def forward(self, x):
        x = self.stem(x)
        if self.training:
            return self.head(x), self.second(self.hidden(x).relu())
        return self.head(x)


def test_what_training_alone_reads_can_go(conv, image, agree):
    model = Training(conv).double()
    groups = analyse(model, image).groups
    assert {g.name: g.size for g in groups.prunable} == {
        'stem': 8,
        'hidden': 6,
    }
    slim = agree(model, image).slim.train()
    assert slim.hidden.out_channels < 6
    slim(image)[1].sum().backward()


def test_a_sum_over_channels_reads_them(conv, image, net, agree):
    model = net(
        lambda m, x: (m.q(x) * m.k(x)).sum(1, keepdim=True),
        q=conv(3, 8),
        k=conv(3, 8),
    )
    assert agree(model, image).groups == {'q': 8}


def grouped_norm(m, x):
    return m.c(m.norm(m.a(x)))


def flattened(m, x):
    return m.c(m.a(x).mean((2, 3)).repeat_interleave(2, 1))


def split(m, x):
    return m.c(functional.glu(m.a(x), 1))


@pytest.mark.parametrize(
    ('forward', 'parts', 'size', 'block'),
    [
        # Whole groups of three, which convolutions emit and read.
        (grouped_norm, dict(norm=nn.GroupNorm(4, 12)), 4, 3),
        # The same position of each of the three.
        (grouped_norm, dict(norm=nn.GroupNorm(3, 12)), 4, 3),
        # One channel is emitted and read twice, or the other way round.
        (flattened, dict(c=nn.Linear(24, 5)), 12, 1),
        (split, dict(c=nn.Conv2d(6, 5, 1)), 6, 1),
    ],
    ids=['groups', 'positions', 'flattened', 'split'],
)
def test_how_many_channels_of_all_tensors_go_at_once(
    net, conv, image, agree, forward, parts, size, block
):
    """The divisor counts them: two parts of three are a multiple of six."""
    model = net(forward, **{'a': conv(3, 12), 'c': conv(12, 5), **parts})
    (group,) = analyse(model, image).groups.prunable
    assert (group.size, group.block) == (size, block)
    found = agree(model, image, divisor=6)
    (divisor,) = found.pruner.divisors
    assert divisor * block == 6


def same(found, other):
    """Whether groups are equal in all that they say."""
    told = [
        [(g.name, g.size, g.floor, g.frozen, g.block) for g in groups.items]
        for groups in (found, other)
    ]
    numbers = (groups.node_channel for groups in (found, other))
    return told[0] == told[1] and torch.equal(*numbers)


def change_floor(record, nodes):
    record.lasting.append((nodes, 3))


def change_floor_to_all(record, nodes):
    record.lasting.append((nodes, len(nodes)))


def change_by_freezing(record, nodes):
    record.graph.freeze(nodes[:2], 'for a test')


def change_by_tying(record, nodes):
    record.graph.unite(nodes[:3], nodes[3:6], 'for a test')


@pytest.mark.parametrize(
    'change',
    [
        change_floor,
        change_floor_to_all,
        change_by_freezing,
        change_by_tying,
    ],
)
def test_gathered_again_they_are_as_if_for_the_first_time(
    model, image, change
):
    record = trace(model, lambda: model(image))
    gathering = Gathering(record)
    before = gathering.groups()
    change(record, before.prunable[1].nodes)
    again = gathering.groups()
    assert not same(before, again)
    assert same(again, Gathering(record).groups())
    # Floors of before are gone where they are taken back.
    record.lasting.clear()
    assert same(gathering.groups(), Gathering(record).groups())


def test_for_floors_alone_nothing_is_gathered(model, image, monkeypatch):
    record = trace(model, lambda: model(image))
    gathering = Gathering(record)
    before = gathering.groups()

    def touched_sites(*_):
        raise AssertionError

    monkeypatch.setattr('mmlapp.core.gathering.touched_sites', touched_sites)
    record.lasting.append((before.prunable[1].nodes, 3))
    assert gathering.groups().prunable[1].floor == 3
    record.graph.freeze(before.prunable[0].nodes, 'for a test')
    with pytest.raises(AssertionError):
        gathering.groups()
