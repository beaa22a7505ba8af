# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Code that counts channels itself: found by narrowing it on trial."""

import copy

import pytest
import torch
from torch import nn

from mmlapp.core import analyse, attach
from mmlapp.core.analysis import runs
from mmlapp.core.analysis.counts import Count
from mmlapp.core.analysis.runs import Runs
from mmlapp.core.analysis.ways import Way
from mmlapp.core.narrowing.narrow import apply_plan

RIGID = 'the network does not run with fewer of them'
OTHER = 'with fewer of them, the network would compute something else'


class Counting(nn.Module):
    """Keeps its width, as no rule of the tracer can see."""

    def __init__(self, conv, width=8):
        super().__init__()
        self.width = str(width)
        self.a, self.b = conv(6, width), conv(width, 6)

    def forward(self, x):
        y = self.a(x)
        y = y.reshape(len(x), int(self.width), *x.shape[2:])
        return self.b(y)


class Split(Counting):
    def forward(self, x):
        first, second = self.a(x).split([4, 4], dim=1)
        return self.b(torch.cat([second, first], dim=1))


@pytest.mark.parametrize('kind', [Counting, Split])
def test_what_does_not_run_is_frozen(kind, conv, image, agree, frozen):
    model = nn.Sequential(conv(3, 6), kind(conv), kind(conv), conv(6, 5))
    reason = f'{kind.__name__} does not run with fewer of them'
    assert frozen(model.double(), image) == {
        '1.a': reason,
        '2.a': reason,
        '3': 'output of the network',
    }
    assert agree(model, image).groups == {'0': 6, '1.b': 6, '2.b': 6}


def test_what_would_compute_something_else_is_frozen(
    net, conv, image, agree, frozen
):
    def forward(m, x):
        y = m.a(x)
        return m.c(m.b(y / y.shape[1]))

    model = net(forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 5))
    assert frozen(model, image)['a'] == (OTHER)
    assert agree(model, image).groups == {'b': 6}


def test_a_trial_leaves_no_trace(conv, image):
    model = nn.Sequential(
        conv(3, 6), nn.GroupNorm(1, 6), Counting(conv), conv(6, 5)
    ).double()
    model.train()
    before = {name: id(p) for name, p in model.named_parameters()}
    kinds = [type(m) for m in model.modules()]
    analyse(model, lambda: model(image))
    assert {name: id(p) for name, p in model.named_parameters()} == before
    assert [type(m) for m in model.modules()] == kinds
    assert all(m.training for m in model.modules())
    assert model[0].out_channels == 6


class Several(nn.ModuleList):
    """As MMEngine derives its containers."""


class Paths(nn.Module):
    """Gives each path a part that is as wide as it was written."""

    def __init__(self, conv):
        super().__init__()
        self.paths = Several([conv(4, 6), conv(4, 6)])

    def forward(self, x):
        parts = x.split(4, dim=1)
        pairs = zip(self.paths, parts, strict=False)
        return sum(path(part) for path, part in pairs)


def test_layers_that_are_given_too_much_do_not_condemn_others(
    conv, image, agree, frozen
):
    model = nn.Sequential(conv(3, 8), Paths(conv), conv(6, 6), conv(6, 5))
    found = frozen(model.double(), image)
    assert found['0'] == 'Paths does not run with fewer of them'
    assert agree(model, image).groups == {'1.paths.0': 6, '2': 6}


def test_widths_that_the_code_takes_for_equal(net, conv, image, frozen):
    """As expand_as does: what it reads the size of leaves no mark."""

    def forward(m, x):
        a, b = m.a(x), m.b(x.mean((2, 3), keepdim=True))
        return m.c(torch.cat([a, b.expand_as(a)], dim=1))

    model = net(forward, a=conv(3, 8), b=conv(3, 8, 1), c=conv(16, 5))
    found = frozen(model, image)
    assert set(found) == {'a', 'b', 'c'}
    assert found['a'] == 'the network does not run with fewer of them'


class Unit(nn.Module):
    """A convolution with its activation, as everybody uses it."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv(x).relu()


def test_small_blocks_elsewhere_are_not_condemned(conv, image, frozen):
    model = nn.Sequential(
        conv(3, 8), Paths(conv), Unit(conv(6, 6)), Unit(conv(6, 6)), conv(6, 5)
    )
    model[1].paths = nn.ModuleList([Unit(path) for path in model[1].paths])
    assert frozen(model.double(), image) == {
        '0': 'Unit does not run with fewer of them',
        '4': 'output of the network',
    }


class Auxiliary(nn.Module):
    """A second head that only training wakes up, as in GoogLeNet."""

    def __init__(self, conv):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 6), conv(6, 5)
        self.drop, self.norm = nn.Dropout(), nn.BatchNorm2d(6)
        self.head = conv(8, 4)
        self.register_buffer('calls', torch.zeros(()))

    def forward(self, x):
        y = self.a(x)
        out = self.c(self.norm(self.b(self.drop(y))))
        if not self.training:
            return out
        self.calls.add_(1)
        return out, self.head(y)


def test_an_auxiliary_head_is_narrowed_with_what_it_reads(conv, image, agree):
    result = agree(Auxiliary(conv).double(), image)
    assert result.groups == {'a': 8, 'b': 6}
    result.slim.train()(image)[1].sum().backward()


class Rigid(Auxiliary):
    """Training wants a width that stays."""

    def forward(self, x):
        y = self.a(x)
        if self.training and self.head(y).numel() and y.shape[1] != 8:
            raise RuntimeError('other width')
        return self.c(self.norm(self.b(y)))


def test_what_training_needs_is_frozen(conv, image, agree, frozen):
    model = Rigid(conv).double()
    assert frozen(model, image)['a'] == f'{RIGID} in training'
    result = agree(model, image)
    # Nothing reads what the head gives.
    assert result.groups == {'b': 6}
    result.slim.train()(image).sum().backward()


def centred(y):
    return y - y.mean(1, keepdim=True)


# What training alone does between two layers, and whether that would be
# something else when it is narrowed.
TRAINED = {
    'counted': (lambda y: y * y.shape[1] ** -0.5, True),
    'centred': (centred, True),
    'measured': (lambda y: y / (1 + y.abs().mean()), True),
    'drawn': (lambda y: centred(nn.functional.dropout(y)), True),
    'harmless': (lambda y: 2 * y.relu(), False),
}


@pytest.mark.parametrize('name', TRAINED)
def test_what_training_would_compute_otherwise_is_frozen(
    net, conv, image, frozen, recwarn, name
):
    function, otherwise = TRAINED[name]

    def forward(m, x):
        y = m.drop(m.norm(m.a(x)))
        return m.c(m.b(function(y) if m.training else y))

    model = net(
        forward,
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        drop=nn.Dropout(),
        b=conv(8, 6),
        c=conv(6, 5),
    )
    expected = {'a': f'{OTHER} in training'} if otherwise else {}
    expected['c'] = 'output of the network'
    assert frozen(model, image) == expected

    def loss():
        return model(image).square().mean()

    way = Way(loss, 'loss', train=True, compare=False)
    assert frozen(model, image, also=[way]) == expected
    assert not recwarn.list


def test_the_example_need_not_run_in_training_beside_a_loss(
    conv, image, monkeypatch
):
    model = Detector(conv).double()

    def forward():
        assert not model.training
        return model(image)

    masked = []
    original = Runs.masked

    def note(trial, removal, check, *args, **kwargs):
        masked.append(check.train)
        return original(trial, removal, check, *args, **kwargs)

    monkeypatch.setattr(Runs, 'masked', note)
    way = Way(lambda: model(image), 'loss', train=True, compare=False)
    found = analyse(model, forward, also=[way])
    assert [group.name for group in found.groups.prunable] == ['a', 'b']
    # Once to look at what the loss reads, and once to see that the example
    # does not run with masks either.
    assert masked == [False, False, False, True]


def test_training_as_in_evaluation_is_never_masked(conv, image, monkeypatch):
    masked = []

    def note(trial, removal, check, *args, **kwargs):
        masked.append(check.train)
        return original(trial, removal, check, *args, **kwargs)

    original = Runs.masked
    monkeypatch.setattr(Runs, 'masked', note)
    plain = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.Dropout())
    analyse(nn.Sequential(*plain, conv(8, 4)).double(), image)
    assert masked == [False, False]


class Noise(nn.Module):
    """Draws, and computes something else of what it draws if it is told."""

    def __init__(self, rate, function=lambda y: y):
        super().__init__()
        self.rate, self.function = rate, function

    def forward(self, x):
        if not self.training or not self.rate:
            return x
        return self.function(x * torch.rand(len(x), 1, 1, 1))


@pytest.mark.parametrize('rate', [0.0, 0.5])
def test_both_modes_share_a_masked_network(conv, image, monkeypatch, rate):
    """Where training looks as if it did something else, as noise does."""
    masked, outputs = [], Runs.outputs
    made = Runs.masked

    def note(trial, removal, check, *args, **kwargs):
        masked.append([])
        return made(trial, removal, check, *args, **kwargs)

    def run(trial, check, stage, left=None, seed=0, mask=None):
        if mask is not None:
            masked[-1].append(check.train)
        return outputs(trial, check, stage, left, seed, mask)

    monkeypatch.setattr(Runs, 'masked', note)
    monkeypatch.setattr(Runs, 'outputs', run)
    model = nn.Sequential(conv(3, 8), Noise(rate), conv(8, 4)).double()
    found = analyse(model, image)
    assert [group.name for group in found.groups.prunable] == ['0']
    # Some channels, in both modes at once, and one.
    assert masked == [[False, True] if rate else [False], [False]]


@pytest.mark.parametrize(
    ('function', 'otherwise'), [(centred, True), (torch.relu, False)]
)
def test_noise_that_counts_channels_is_frozen(
    conv, image, frozen, agree, function, otherwise
):
    noise = Noise(0.5, function)
    model = nn.Sequential(conv(3, 8), noise, conv(8, 6), conv(6, 4))
    expected = {'3': 'output of the network'}
    if otherwise:
        expected = {'0': f'{OTHER} in training', **expected}
    assert frozen(model.double(), image) == expected
    pruned = {'2': 6} if otherwise else {'0': 8, '2': 6}
    assert agree(model, image).groups == pruned


def test_both_modes_share_a_narrowed_network(conv, image, monkeypatch):
    """Some channels, and one: that one runs in both modes."""
    widths = []

    def note(model, plan, branches):
        widths.append(plan.slices['0.weight'][0].count)
        return apply_plan(model, plan, branches)

    monkeypatch.setattr(runs, 'apply_plan', note)
    analyse(nn.Sequential(conv(3, 8), conv(8, 4)).double(), image)
    assert widths == [5, 1]


def test_a_trial_in_training_mode_leaves_no_trace(conv, image):
    model = Auxiliary(conv).double().train()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    analyse(model, lambda: model(image))
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())


def test_training_that_needs_more_than_an_image_is_not_tried(conv, image):
    model = Auxiliary(conv).double()
    model.head = conv(9, 4).double()  # does not even run whole
    found = analyse(model, lambda: model(image), unused='head')
    assert [group.name for group in found.groups.prunable] == ['a', 'b']


class Detector(nn.Module):
    """Its example runs one head, its loss another one."""

    def __init__(self, conv):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(3, 6), conv(14, 5)

    def forward(self, x):
        return self.c(torch.cat([self.a(x), self.b(x)], dim=1))

    def crashing(self, x):
        return self.a(x) + self.a(x).new_ones(8, 1, 1)

    def comparing(self, x):
        return dict(loss=self.b(x).mean(1).abs().mean())


@pytest.mark.parametrize(
    ('way', 'expected'),
    [
        ('crashing', {'a': f'{RIGID} in also[0]'}),
        ('comparing', {'b': f'{OTHER} in also[0]'}),
    ],
)
def test_further_ways_to_run(conv, image, frozen, way, expected):
    model = Detector(conv).double()
    found = frozen(model, image, also=[lambda: getattr(model, way)(image)])
    assert found == expected | {'c': 'output of the network'}
    pruner = attach(model, image, also=[lambda: getattr(model, way)(image)])
    names = {group.name for group in pruner.groups}
    assert names == {'a', 'b'} - expected.keys()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('train', [False, True])
def test_a_loss_has_to_run_in_any_precision(conv, image, frozen, dtype, train):
    """Small images are tried in float64, which a loss may not know."""
    model = Detector(conv).to(dtype)
    image = image.to(dtype)

    def loss():
        a = model.a(image)
        assert a.dtype == dtype
        assert model.training is train
        return dict(loss=(a + a.new_ones(8, 1, 1)).mean())

    ways = [Way(loss, 'loss', train, compare=False)]
    found = frozen(model, image, also=ways)
    assert found['a'] == f'{RIGID} in loss'
    assert found.keys() == {'a', 'c'}


def test_a_loss_of_two_channels_behind_a_norm(frozen):
    """Where nothing is compared, all groups go down to their floor."""
    model = Hidden(6)
    x = torch.randn(2, 2)

    def loss():
        return model.b(model.a(x).relu()).squeeze()[:, 2]

    way = Way(loss, 'loss', compare=False)
    assert 'b' not in frozen(model, x)
    assert frozen(model, x, also=[way])['b'] == (
        'the network does not run with two of them left in loss'
    )


def test_one_narrowed_network_is_for_all_ways(conv, image, monkeypatch):
    model = Detector(conv)
    narrowed, ran = [], []

    def note(model, plan, branches):
        narrowed.append(plan.slices['a.weight'][0].count)
        return apply_plan(model, plan, branches)

    def way(name):
        def run():
            ran.append((name, len(model.a.weight)))
            assert model.a.weight.dtype == torch.float32
            return model(image.float())

        return Way(run, name, name == 'loss', compare=False, proven=True)

    monkeypatch.setattr(runs, 'apply_plan', note)
    analyse(model, image.float(), also=[way('loss'), way('predict')])
    # For the example and both ways together.
    assert narrowed == [5, 1]
    # Never whole, each once; the loss is the run in training mode. It alone
    # is masked, once, to look at what is read.
    both = [(name, width) for width in (5, 1) for name in ('loss', 'predict')]
    assert ran == [*both, ('loss', 8)]


def test_a_further_way_leaves_no_trace(conv, image):
    model = Auxiliary(conv).double()

    def way():
        model.calls.add_(1)
        return model.a(image) * torch.rand(())

    random = torch.get_rng_state()
    analyse(model, image, also=[way])
    assert model.calls == 0
    assert torch.equal(torch.get_rng_state(), random)


class Normed(nn.Module):
    """A residual branch whose last norm begins with zero."""

    def __init__(self, conv, between):
        super().__init__()
        self.a, self.b = conv(8, 16, bias=False), conv(16, 8, bias=False)
        self.norm, self.between = nn.BatchNorm2d(8), between
        nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        return x + self.norm(self.b(self.between(self.a(x).relu())))


class Rezero(nn.Module):
    """A residual branch behind a scale that begins with zero or near it."""

    def __init__(self, conv, between, start=0.0):
        super().__init__()
        self.a, self.b, self.between = conv(8, 16), conv(16, 8), between
        self.scale = nn.Parameter(torch.tensor(start))

    def forward(self, x):
        return x + self.scale * self.b(self.between(self.a(x).relu()))


class Attention(nn.Module):
    """A single head behind a small LayerScale."""

    def __init__(self, conv):
        super().__init__()
        self.q, self.k, self.v = (conv(8, n, 1) for n in (6, 6, 8))
        self.gamma = nn.Parameter(torch.full((8, 1, 1), 1e-5))

    def forward(self, x):
        q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
        weights = (q.transpose(1, 2) @ k / q.size(1) ** 0.5).softmax(-1)
        return x + self.gamma * (v @ weights).view_as(x)


class Excited(nn.Module):
    """Squeeze and excitation, which nothing is wrong with."""

    def __init__(self, conv):
        super().__init__()
        self.a, self.down, self.up = (
            conv(8, 16),
            conv(16, 6, 1),
            conv(6, 16, 1),
        )
        self.b = conv(16, 8)
        nn.init.zeros_(self.b.weight)

    def forward(self, x):
        y = self.a(x)
        pooled = y.mean((2, 3), keepdim=True)
        return self.b(y * self.up(self.down(pooled).relu()).sigmoid())


class Joined(nn.Module):
    """Two branches of one layer each, side by side."""

    def __init__(self, conv, groups=1):
        super().__init__()
        self.a, self.b = conv(8, 12), conv(8, 6)
        self.c, self.d = conv(18, 18, groups=groups), conv(18, 8)
        nn.init.zeros_(self.d.weight)

    def forward(self, x):
        y = torch.cat([self.a(x), self.b(x)], dim=1)
        return x + self.d(self.c(y).relu())


def shuffled(y):
    n, c, h, w = y.shape
    return y.view(n, 8, c // 8, h, w).transpose(1, 2).reshape(y.shape)


def counted(y):
    return y / y.shape[1]


def rounded(y):
    return y * (y.shape[1] // 4 * 4 / 16)


def first_half(y):
    return y * (1 if int(y.shape[1]) > 1 else 2)


# Network -> layers of the block that may be pruned, at any initial weights.
BLOCKS = {
    'norm': (lambda c: Normed(c, nn.Identity()), {'a': 16}),
    'norm, counted': (lambda c: Normed(c, Between(counted)), {}),
    'norm, shuffled': (lambda c: Normed(c, Between(shuffled)), {}),
    'scale': (lambda c: Rezero(c, nn.Identity()), {'a': 16}),
    'scale, rounded': (lambda c: Rezero(c, Between(rounded)), {}),
    'scale, one': (lambda c: Rezero(c, Between(first_half), 1e-6), {}),
    'attention': (Attention, {}),
    'excitation': (Excited, {'a': 16, 'down': 6, 'b': 8}),
    'joined': (Joined, {'a': 12, 'b': 6, 'c': 18}),
    'grouped': (lambda c: Joined(c, groups=18), {'a': 12, 'b': 6}),
}


class Between(nn.Module):
    """What code does in the middle of a branch."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, y):
        return self.function(y)


def initialise(model, seed):
    """Weights of every kind that people begin with."""
    torch.manual_seed(seed)
    for module in model.modules():
        if seed and hasattr(module, 'reset_parameters'):
            gates = isinstance(module, nn.BatchNorm2d)
            if not gates or seed % 3:
                module.reset_parameters()
    with torch.no_grad():
        for parameter in model.parameters():
            if seed in (3, 4):
                parameter.fill_(seed - 3)
            elif seed in (5, 6):
                parameter.mul_(1e-6 if seed == 5 else 1e3)
    model.train(seed % 2 == 1)
    return model.to((torch.float32, torch.float64, torch.bfloat16)[seed % 3])


@pytest.mark.parametrize('name', BLOCKS)
def test_the_groups_of_any_initial_weights(name, conv):
    build, expected = BLOCKS[name]
    found = set()
    for seed in range(12):
        block = build(conv)
        model = initialise(nn.Sequential(block, conv(8, 5)), seed)
        image = torch.rand(2, 8, 6, 6).to(model[1].weight.dtype)
        groups = analyse(model, image).groups
        found.add(tuple((g.name, g.size, g.frozen) for g in groups.items))
        sizes = {g.name[2:]: g.size for g in groups.prunable}
        sizes.pop('', None)
        assert sizes == expected
    assert len(found) == 1


def test_a_way_without_outputs_only_has_to_run(conv, image, frozen):
    """What need not be equal is not run with masks more than once."""
    model = Detector(conv).double()
    widths = []

    def way():
        widths.append(model.a.out_channels)
        model.a(image) + model.a(image).new_ones(model.a.out_channels, 1, 1)

    assert frozen(model, image, also=[way]) == {'c': 'output of the network'}
    # Narrowed to some and to one; whole when it is followed, and masked once.
    assert sorted(set(widths)) == [1, 5, 8]
    assert widths[widths.index(5) :].count(8) == 0


class Hidden(nn.Module):
    """Does another thing with few channels, before a norm over others."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(2, 12), nn.Linear(12, width)
        self.norm, self.c = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x):
        x = self.a(x)
        x = x.relu() if int(x.shape[-1]) > 5 else -x
        return self.c(self.norm(self.b(x)).sigmoid())


@pytest.mark.parametrize('width', [3, 5])
def test_a_norm_over_few_channels_hides_nothing(width):
    groups = analyse(Hidden(width), torch.randn(2, 2)).groups
    assert [group.name for group in groups.prunable] == ['b']


class Stream(nn.Module):
    """Does another thing with few channels, over which a norm is computed."""

    def __init__(self, few):
        super().__init__()
        self.few = few
        self.a, self.norm = nn.Linear(2, 12), nn.LayerNorm(12)
        self.b, self.c = nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.a(x)
        x = x.relu() if int(x.shape[-1]) > self.few else -x
        return self.c(x + self.b(self.norm(x)))


@pytest.mark.parametrize('few', [5, 2])
def test_few_of_what_a_norm_is_computed_over_are_tried(few):
    groups = analyse(Stream(few), torch.randn(2, 2)).groups
    assert not groups.prunable


class Last(nn.LayerNorm):
    """With channels first."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def test_two_that_a_norm_is_computed_over_are_tried_exactly(conv, monkeypatch):
    """The sign of what two differ by makes rounding of float32 large."""
    tried = {}
    original = Runs.masked

    def note(trial, removal, check, stage, **others):
        tried.setdefault((check.count, check.train), stage.dtype)
        return original(trial, removal, check, stage, **others)

    class Sized(nn.Sequential):
        def forward(self, x):
            assert x.shape[-1] == 100
            return super().forward(x[..., ::10, ::10])

    monkeypatch.setattr(Runs, 'masked', note)
    model = Sized(conv(3, 8), Last(8), nn.Dropout(), conv(8, 5))
    (group,) = analyse(model, torch.rand(1, 3, 100, 100)).groups.prunable
    assert group.floor == 2
    assert tried == {
        (Count.SOME, False): torch.float32,
        (Count.ONE, False): torch.float32,
        (Count.ALONE, False): torch.float64,
    }


def test_fewer_than_must_stay_are_not_tried():
    (group,) = analyse(Stream(1), torch.randn(2, 2)).groups.prunable
    assert group.floor == 2


class Choosing(nn.Module):
    """Wants three scores that stand out."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)
        self.score = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        return self.score(self.second(self.first(x).relu()).relu())

    def predict(self, x):
        scores = self(x).flatten()
        far = (scores / scores.abs().mean() - 1).abs() > 0.4
        return scores[far].topk(3)


def test_what_masks_alone_prevent_is_not_due_to_narrowing():
    torch.manual_seed(0)
    model, image = Choosing().eval(), torch.rand(1, 3, 8, 8)
    way = Way(lambda: model.predict(image), 'predict', compare=False)
    found = analyse(model, image, also=[way])
    assert [group.size for group in found.groups.prunable] == [16, 16]
