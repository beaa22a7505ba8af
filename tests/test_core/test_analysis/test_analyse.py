# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
import random
from array import array
from collections import deque

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from mmlapp.core import PruningError, PruningWarning, analyse, attach


def test_the_network_is_left_as_it_is(model, images):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    classes = [type(m) for m in model.modules()]
    analyse(model.train(), lambda: model(images), bypass='grouped')
    assert [type(m) for m in model.modules()] == classes
    assert all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items()
    )
    assert model.training


def test_an_example_is_what_attach_takes(model, images):
    names = [
        [group.name for group in analyse(model, example).groups.prunable]
        for example in (images, (images,), lambda: model(images))
    ]
    assert names == [['a', 'b', 'c']] * 3


def test_an_analysis_spares_the_forwards(model, images):
    """It says scope, unit and bypass."""
    found = analyse(
        model, lambda: model(images), 'b', bypass='grouped', unit='filters'
    )

    def fail():
        raise AssertionError('ran again')

    pruner = attach(model, fail, analysis=found)
    assert [g.name for g in pruner.groups] == ['b']
    assert pruner.floors == [0]
    pruner.set_mask(pruner.mask)
    assert pruner.plan().unit == 'filters'
    assert set(pruner.plan().branches) == {'b'}


@pytest.mark.parametrize(
    ('arguments', 'match'),
    [
        (dict(unit='rows'), "unit='rows' is unknown"),
        (dict(bypass='wide'), "bypass='wide' is unknown"),
        (dict(bypass=dict(norm=True)), 'says no type'),
        (dict(scope='z'), "scope='z' matches no"),
    ],
)
def test_unknown_choices(model, images, arguments, match):
    with pytest.raises(PruningError, match=match):
        analyse(model, lambda: model(images), **arguments)


def test_noise_of_a_network_does_not_change_what_the_user_draws(net, conv):
    model = net(
        lambda m, x: m.b(m.a(x) + torch.rand_like(x[:, :1])),
        a=conv(3, 8),
        b=conv(8, 5),
    )
    before = torch.get_rng_state()
    analyse(
        model, torch.rand(1, 3, 8, 8, generator=torch.Generator()).double()
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_forward_keeps_is_put_back(net, conv, image):
    def forward(m, x):
        m.shape, m.seen = x.shape, torch.ones(x.shape[2])
        return m.b(m.a(x))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    model.register_buffer('seen', torch.zeros(1))
    before = model.seen
    analyse(model, image)
    assert model.seen is before
    assert not hasattr(model, 'shape')


def clamp(m):
    with torch.no_grad():
        m.a.weight.clamp_(-0.01, 0.01)


def swap(m):
    m.a.weight.data = m.a.weight.data.clamp(-0.01, 0.01)


def hook(m):
    m.b.register_forward_hook(lambda _, __, out: 2 * out)


def draw(_):
    random.random(), np.random.rand(), torch.rand(1)


# What forwards do to a network.
DONE = {
    'writes a parameter': clamp,
    'gives it other data': swap,
    'counts in a buffer': lambda m: m.calls.add_(1),
    'keeps a mean, no buffer': lambda m: m.kept[0].mul_(0.5).add_(1),
    'keeps a list': lambda m: m.log.append(1),
    'keeps lists in others': lambda m: m.nested['a'][0].append(1),
    'writes through NumPy': lambda m: m.a.bias.detach().numpy().fill(3),
    'keeps an array': lambda m: m.numbers[0].append(1),
    'keeps bytes': lambda m: m.raw.append(1),
    'keeps a set': lambda m: m.seen.add(len(m.seen)),
    'keeps the last ones': lambda m: m.last.append(len(m.last)),
    'freezes a parameter': lambda m: m.a.weight.requires_grad_(False),
    'adds a hook': hook,
    'draws': draw,
}


def state_of(m):
    return copy.deepcopy(
        (
            dict(m.state_dict().items()),
            [p.requires_grad for p in m.parameters()],
            [list(part._forward_hooks) for part in m.modules()],
            (m.kept, m.log, m.seen, list(m.last), m.nested),
            ([list(numbers) for numbers in m.numbers], list(m.raw)),
            (random.getstate(), np.random.get_state(), torch.get_rng_state()),
        )
    )


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('name', DONE)
def test_what_forwards_do_is_undone(net, conv, image, name, train):
    """In evaluation, and in training, where the trial alone runs it."""

    def forward(m, x):
        if m.training is train:
            DONE[name](m)
        return m.b(m.a(x).relu())

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    model.register_buffer('calls', torch.zeros(3))
    model.kept, model.log, model.seen = (torch.zeros(4),), [], set()
    model.last, model.nested = deque(maxlen=3), {'a': ([],)}
    model.numbers, model.raw = (array('d'),), bytearray()
    before = state_of(model)
    analyse(model.train(), image)
    after = state_of(model)
    leaves = tree_leaves(before), tree_leaves(after)
    assert len(leaves[0]) == len(leaves[1])
    for a, b in zip(*leaves, strict=True):
        assert a.equal(b) if isinstance(a, torch.Tensor) else np.all(a == b)


class Drawing:
    def __init__(self, die):
        self.held = {'die': [die]}

    def draw(self):
        return numbers_of(self.held['die'][0])


def numbers_of(die):
    """One number of a generator of any kind."""
    if isinstance(die, torch.Generator):
        return float(torch.rand((), generator=die))
    return die.random() if hasattr(die, 'random') else die.rand()


DICE = {
    'torch': lambda: torch.Generator().manual_seed(3),
    'python': lambda: random.Random(3),
    'numpy': lambda: np.random.default_rng(3),
    'numpy of old': lambda: np.random.RandomState(3),
}


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('held', [lambda die: die, lambda die: {'a': [die]}])
@pytest.mark.parametrize('kind', DICE)
@pytest.mark.filterwarnings('error')
def test_own_generators_go_on_as_if_nothing_had_run(
    net, conv, image, kind, held, train
):
    def forward(m, x):
        if m.training is train:
            x = x + sum(map(numbers_of, m.dice)) + m.object.draw()
        return m.b(m.a(x).relu())

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    model.object, model.held = Drawing(DICE[kind]()), held(DICE[kind]())
    model.dice = tree_leaves(model.held)
    found = analyse(model.train(), image)
    assert [group.size for group in found.groups.prunable] == [8]
    expected = numbers_of(DICE[kind]())
    assert model.object.draw() == numbers_of(model.dice[0]) == expected


def test_draws_of_an_own_generator_for_each_channel_say_nothing(
    net, conv, image
):
    def forward(m, x):
        drawn = [m.die.random() for _ in range(len(m.a.weight))]
        return m.b(m.a(x) * sum(drawn))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    model.die = random.Random(1)
    with pytest.warns(PruningWarning, match='other outputs at every call'):
        found = analyse(model, image)
    assert len(found.groups.prunable) == 1


def test_a_layer_that_an_own_generator_leaves_out_is_refused(net, conv, image):
    def forward(m, x):
        y = m.a(x)
        return m.b(m.c(y) if m.die.random() < 0.5 else y)

    model = net(forward, a=conv(3, 8), b=conv(8, 5), c=conv(8, 8))
    # Of its first two numbers one is smaller than a half.
    model.die = random.Random(3)
    with pytest.raises(PruningError, match='other modules at every forward'):
        analyse(model, image)
    assert model.die.random() == random.Random(3).random()


def test_an_embedding_that_limits_itself_keeps_its_weights(image):
    model = torch.nn.Sequential(
        torch.nn.Embedding(20, 8, max_norm=1.0),
        torch.nn.Linear(8, 6),
        torch.nn.Linear(6, 4),
    )
    before = model[0].weight.detach().clone()
    analyse(model, torch.arange(6)[None])
    assert before.equal(model[0].weight)
