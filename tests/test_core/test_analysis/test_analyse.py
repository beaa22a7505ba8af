# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError, analyse, attach


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
