# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Sampled masks against masks behind the ReLU, and against the formula."""

import copy
import math
from statistics import NormalDist

import pytest
import torch
from pruning_steps import at_step, train
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmlapp.core import Phase, PruningError, attach, narrow
from mmlapp.core.methods.soft import channel_norms


@pytest.fixture
def begun(images):
    """Makes a phase."""

    def make(model, steps=10, target=0.5, normalisation='rank', **settings):
        protect = settings.pop('protect', 0)
        pruner = attach(
            model,
            images.to(next(model.parameters())),
            method=dict(type='soft', **settings),
            score='operation_aware',
            normalisation=normalisation,
            protect=protect,
        )
        pruner.begin({'flops': target}, steps)
        return pruner

    return make


@pytest.fixture
def chain(randomise):
    """Every layer has its norm and its ReLU."""

    def make(activation=nn.ReLU):
        return randomise(
            nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1, bias=False),
                nn.BatchNorm2d(8),
                activation(),
                nn.Conv2d(8, 12, 3, padding=1),
                nn.BatchNorm2d(12),
                activation(),
                nn.Conv2d(12, 4, 3, padding=1),
            )
        ).double()

    return make


def uniform(pruner):
    """What the masks of this step were sampled from."""
    seed = pruner.method.seed + 1_000_003 * pruner.progress.done
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(pruner.gate), generator=generator).tolist()


def mask_by_numbers(x, cut, u, sharpness=20.0, temperature=0.5):
    logistic = math.log(u) - math.log(1 - u)
    return 1 / (
        1 + math.exp(-(sharpness * (cut - x) + logistic) / temperature)
    )


def phi_by_numbers(scale, shift):
    """The normal distribution of the standard library."""
    return NormalDist(shift, abs(scale) + 1e-8).cdf(0.05)


def test_masks_by_the_formula(chain, begun):
    model = chain()
    pruner = begun(model, normalisation='none', sharpness=15, temperature=0.7)
    at_step(pruner, 3)
    pruner.method.prepare(pruner, pruner.mask)
    pruner.method.cut.fill_(0.6)
    found = pruner.method.relaxed(pruner).tolist()
    pairs = [
        (s.item(), t.item())
        for norm in (model[1], model[4])
        for s, t in zip(
            norm._parameters['weight'], norm._parameters['bias'], strict=True
        )
    ]
    expected = [
        mask_by_numbers(phi_by_numbers(s, t), 0.6, u, 15, 0.7)
        for (s, t), u in zip(pairs, uniform(pruner), strict=True)
    ]
    assert found == pytest.approx(expected, abs=1e-4)


def test_ranks_take_the_place_of_probabilities(chain, begun):
    pruner = begun(chain())
    pruner.method.cut.fill_(0.6)
    phi = pruner.method.phi(pruner).split(pruner.sizes)
    # Of N the one with the smallest probability has x = 1 / 2N.
    x = [
        (place + 0.5) / len(part)
        for part in phi
        for place in part.argsort().argsort().tolist()
    ]
    expected = [
        mask_by_numbers(*pair)
        for pair in zip(x, [0.6] * 20, uniform(pruner), strict=True)
    ]
    found = pruner.method.relaxed(pruner).tolist()
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('activation', [nn.ReLU, nn.LeakyReLU, nn.PReLU])
@pytest.mark.parametrize('normalisation', ['rank', 'none'])
def test_it_is_a_mask_behind_the_activation(
    chain, begun, images, activation, normalisation
):
    """Outputs and all gradients are those of the paper's network."""
    model = chain(activation)
    reference = copy.deepcopy(model)
    pruner = begun(model, normalisation=normalisation)
    pruner.method.cut.fill_(0.55)
    images = images.double()

    norms = [reference[1], reference[4]]
    phi = torch.cat(
        [
            torch.distributions.Normal(n.bias, n.weight.abs() + 1e-8).cdf(
                torch.tensor(0.05)
            )
            for n in norms
        ]
    )
    value = 1 - pruner.scores.double()
    x = value + phi - phi.detach()
    logistic = torch.tensor(uniform(pruner)).double().logit()
    masks = ((20 * (0.55 - x) + logistic) / 0.5).sigmoid()
    for place, mask in zip((2, 5), masks.split([8, 12]), strict=True):
        shaped = mask[:, None, None]
        reference[place].register_forward_hook(
            lambda module, args, out, shaped=shaped: out * shaped
        )
    expected, found = reference(images), model(images)
    # Masks are numbers of 32 bits.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    expected.square().sum().backward()
    found.square().sum().backward()
    other = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, other[name].grad, rtol=1e-3, atol=1e-3
        )
    # The norms learn by their masks, too.
    assert all(n.weight.grad.abs().min() > 0 for n in norms)


def test_gradients_of_parts_that_run_again(chain, begun, images):
    """By autograd through the sampled gate, where it is put in by hand."""
    model = chain()
    pruner = begun(model)
    pruner.method.cut.fill_(0.55)
    images = images.double().requires_grad_()
    pruner.relax = lambda training: None
    pruner.stand_in.value = pruner.method.relaxed(pruner)
    model(images).square().sum().backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    del pruner.relax
    model.zero_grad()
    out = images
    pruner.relax(True)
    for part in (model[:3], model[3:6], model[6:7]):
        out = checkpoint(part, out, use_reentrant=True)
    out.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_samples_are_there_as_often_as_the_probability_says(chain, begun):
    pruner = begun(chain(), steps=1000)
    total, count = torch.zeros(20), 400
    for step in range(count):
        at_step(pruner, step)
        pruner.method.prepare(pruner, pruner.mask)
        pruner.method.cut.fill_(0.6)
        total += pruner.method.relaxed(pruner).detach() > 0.5
    expected = (20 * (0.6 - 1 + pruner.scores)).sigmoid()
    # Three and a half standard deviations of a mean of 400.
    spread = (expected * (1 - expected) / count).sqrt()
    assert ((total / count - expected).abs() <= 3.5 * spread + 3 / count).all()


def test_one_sample_in_all_forwards_of_a_step(chain, begun, images):
    model = chain()
    pruner = begun(model)
    seen = []
    for _ in range(2):
        for _ in range(2):
            model(images.double())
            seen.append(pruner.factor.detach().clone())
        train(model, images.double(), 1)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[0], seen[2])


def test_the_regulariser_by_autograd(chain, begun):
    model = chain()
    with torch.no_grad():
        model[1]._parameters['weight'][0] *= -1
    begun(model, weight=0.5).loss().backward()
    for norm in (model[1], model[4]):
        scale, shift = norm._parameters['weight'], norm._parameters['bias']
        assert torch.equal(shift.grad, torch.full_like(shift, 0.5))
        assert torch.equal(scale.grad, scale.sign())
    rest = (0, 3, 6)
    assert all(model[n]._parameters['weight'].grad is None for n in rest)


def test_statistics_move_while_a_channel_is_there(chain, begun, images):
    """As a plain norm's where the sampled mask is alive, else not at all."""
    model = chain()
    pruner = begun(model)
    with torch.no_grad():
        pruner.method.noise.fill_(1e3)
        pruner.method.noise[[2, 8 + 5]] = -1e3  # of both norms
    before = [copy.deepcopy(model[n].state_dict()) for n in (1, 4)]
    seen = []
    for n in (1, 4):
        model[n].register_forward_pre_hook(lambda _, args: seen.append(*args))
    loss = model.double()(images.double()).square().mean() + pruner.loss()
    loss.backward()
    pruner.step()
    for n, gone, old, x in zip((1, 4), (2, 5), before, seen, strict=True):
        mean = 0.9 * old['running_mean'] + 0.1 * x.mean((0, 2, 3))
        var = 0.9 * old['running_var'] + 0.1 * x.var((0, 2, 3))
        mean[gone], var[gone] = (
            old[f'running_{name}'][gone] for name in ('mean', 'var')
        )
        torch.testing.assert_close(model[n].running_mean, mean)
        torch.testing.assert_close(model[n].running_var, var)
    # The next step begins from there, and copies are not disturbed.
    assert not pruner.method.statistics.noted
    model(images.double())
    assert pruner.method.statistics.noted
    assert not copy.deepcopy(model).pruner.method.statistics.noted


def test_what_belongs_to_no_channel_is_not_regularised(normed, begun):
    """Half of the last norm of the block is added to nothing."""
    model = normed()
    pruner = begun(model, weight=1.0)
    norms = channel_norms(pruner.groups)
    assert [len(norm.channels) for norm in norms] == [8, 16, 16]
    pruner.loss().backward()
    found = model.norm2._parameters['bias'].grad.tolist()
    assert found == [1.0] * 8 + [0.0] * 8


def test_of_several_norms_the_mean_counts(normed, begun, randomise):
    model = randomise(normed())
    pruner = begun(model)
    found = pruner.method.phi(pruner)[:8].tolist()
    stored = dict(model.named_parameters())
    expected = [
        sum(
            phi_by_numbers(
                stored[f'{name}.weight'][i].item(),
                stored[f'{name}.bias'][i].item(),
            )
            for name in ('stem_norm', 'norm2')
        )
        / 2
        for i in range(8)
    ]
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_cut_lies_between_what_stays_and_what_goes(chain, begun, images):
    model = chain()
    pruner = begun(model, steps=12, weight=0.01)
    removed = 0
    for _ in range(11):
        cut = float(pruner.method.cut)
        x = 1 - pruner.scores
        assert (x[pruner.mask] < cut).all()
        assert (x[~pruner.mask] > cut).all()
        removed = int((~pruner.mask).sum())
        train(model, images.double(), 1)
    assert removed > 4
    assert float(pruner.targets()['flops']) == pytest.approx(0.5)
    assert 0.4 < pruner.ratios()['flops'] <= 0.5


def test_a_fresh_network_begins_with_all_channels(make, begun):
    """Though no probability differs from the others."""
    for normalisation in ('rank', 'none'):
        pruner = begun(make(), normalisation=normalisation)
        found = pruner.method.by_group(pruner)['alive']
        assert found.min() > 0.99


def test_in_evaluation_a_channel_is_there_or_not(chain, begun, images):
    model = chain()
    pruner = begun(model)
    train(model, images.double(), 9)
    assert pruner.phase == Phase.PRUNING
    assert set(pruner.gate.tolist()) == {0, 1}
    train_output = model(images.double())
    model.eval()
    found = model(images.double())
    assert not torch.allclose(train_output, found)
    plan = pruner.layout.plan(pruner.mask, pruner.by_group(pruner.mask), {})
    narrowed = narrow(copy.deepcopy(model), plan)
    torch.testing.assert_close(narrowed(images.double()), found)


def test_protected_channels_are_there_in_training(chain, begun, images):
    model = chain()
    pruner = begun(model, protect=0.25)
    train(model, images.double(), 9)
    model(images.double())
    assert pruner.protected.sum() == 2 + 3
    assert (pruner.factor[pruner.protected] == 1).all()


def test_modules_over_channels_see_what_the_masks_let_through(
    net, conv, begun, images
):
    """Removed ones are sampled, too."""
    model = net(
        lambda m, x: m.b(m.over(m.norm(m.a(x)).relu())),
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        over=nn.GroupNorm(1, 8),
        b=conv(8, 4),
    )
    pruner = begun(model)
    train(model, images.double(), 9)
    assert not pruner.mask.all()
    seen = []
    model.over.register_forward_hook(lambda m, a, out: seen.append(out))
    model(images.double())
    means = seen[0].detach().abs().mean((0, 2, 3))
    assert (means > 0).all()


def test_a_loss_that_is_not_added(chain, begun, images):
    model = chain()
    pruner = begun(model)
    model(images.double()).square().mean().backward()
    with pytest.raises(PruningError, match='soft: its part of the loss'):
        pruner.step()
    assert pruner.progress.done == 0
    train(model, images.double(), 1)
    assert pruner.progress.done == 1


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('weight', 0),
        ('sharpness', -1),
        ('temperature', 0),
        ('seed', 1.5),
        ('seed', -1),
    ],
)
def test_settings_outside_their_range(model, images, name, value):
    method = dict(type='soft', **{name: value})
    with pytest.raises(PruningError, match=f'soft {name}={value!r}: expec'):
        attach(model, images, method=method, score='operation_aware')


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (dict(score='l2'), "score=l2: .*score='operation_aware'"),
        (
            dict(normalisation='mean'),
            "normalisation='mean': .*'rank' or 'none'",
        ),
        (dict(shrink=3), 'shrink=3: .*Leave shrink out'),
    ],
)
def test_what_does_not_go_with_it(model, images, arguments, text):
    arguments = {'score': 'operation_aware', **arguments}
    with pytest.raises(PruningError, match=text):
        attach(model, images, method='soft', **arguments)


def test_norms_that_a_branch_fills(normed, images):
    """They keep all channels, and the mask stands before them."""
    arguments = dict(score='operation_aware', unit='filters')
    with pytest.raises(PruningError, match='soft: no norm with scale and sh'):
        attach(
            normed(),
            images.double(),
            method='soft',
            bypass='depthwise',
            **arguments,
        )


def test_a_network_without_norms(plain, images):
    with pytest.raises(
        PruningError, match='soft: no norm with scale and shift'
    ):
        attach(
            plain(), images.double(), method='soft', score='operation_aware'
        )


@pytest.mark.filterwarnings('ignore')  # of the compiler
@pytest.mark.slow
def test_a_compiled_network_learns_the_same(chain, begun, images):
    plain, other = chain(), chain()
    other.load_state_dict(plain.state_dict())
    images, states = images.double(), []
    for model in (plain, other):
        pruner = begun(model, steps=4)
        run = (
            model if model is plain else torch.compile(model, backend='eager')
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for _ in range(4):
            optimizer.zero_grad()
            (run(images).square().mean() + pruner.loss()).backward()
            optimizer.step()
            pruner.step()
        states.append(model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value)
