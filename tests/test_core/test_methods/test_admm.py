# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pull, projection and dual update against their definitions."""

import itertools
import warnings

import pytest
import torch
from pruning_steps import train

from mmlapp.core import Phase, PruningError, PruningWarning, attach, narrow
from mmlapp.core.methods.admm import HalfEnergy
from mmlapp.core.methods.channel_costs import COST_TERMS


@pytest.fixture
def begun(model, images):
    """Makes a phase on Euclidean norms, or others."""

    def make(
        steps=12, target=0.5, normalisation='none', min_keep=0, **settings
    ):
        pruner = attach(
            model,
            images,
            method={'type': 'admm', 'rounds': 2, 'updates': 3, **settings},
            normalisation=normalisation,
            min_keep=min_keep,
        )
        pruner.begin({'flops': target}, steps)
        return pruner

    return make


def copies(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def distance(pruner, kept):
    """Squared distance of the weights from their zeroed selves."""
    method = pruner.method
    pairs = zip(method.parts, method.weights(), strict=True)
    return float(
        sum(p.gated(w, ~kept).detach().square().sum() for p, w in pairs)
    )


def test_the_energy_and_its_gradient_by_differences():
    shapes = [(3, 2, 2), (5,)]
    w, z, u = ([torch.randn(s).double() for s in shapes] for _ in range(3))
    inputs = [tensor.requires_grad_() for tensor in w]
    assert torch.autograd.gradcheck(
        lambda *weights: HalfEnergy.apply(z, u, *weights), inputs
    )
    both = zip(w, z, u, strict=True)
    expected = 0.5 * sum((a - b + c).square().sum() for a, b, c in both)
    torch.testing.assert_close(HalfEnergy.apply(z, u, *inputs), expected)


def test_the_pull_by_autograd_is_that_of_the_formula(model, begun):
    pruner = begun(rho=0.3)
    method = pruner.method
    for tensor in (*method.z, *method.u):
        tensor.normal_()
    pruner.loss().backward()
    parameters = [part.stored() for part in method.parts]
    for w, z, u in zip(parameters, method.z, method.u, strict=True):
        torch.testing.assert_close(w.grad, 0.3 * (w - z + u).detach())
    others = set(model.parameters()) - set(parameters)
    assert others
    assert all(p.grad is None for p in others)


def test_z_and_u_are_updated_by_their_formulas(model, images, begun):
    pruner = begun(steps=12, rounds=1, updates=4, rho=0.5)
    method = pruner.method
    for step in range(1, 12):
        z, u = copies(method.z), copies(method.u)
        train(model, images, 1)
        if step % 3:
            for new, old in zip((*method.z, *method.u), (*z, *u), strict=True):
                assert torch.equal(new, old)
            continue
        sums = [
            w.detach() + old
            for w, old in zip(method.weights(), u, strict=True)
        ]
        kept = method.project(pruner, sums, 1, pruner.mask)
        assert 0 < kept.sum() < len(kept)
        rows = zip(method.parts, sums, method.z, method.u, u, strict=True)
        for part, total, z_now, u_now, u_old in rows:
            w = part.stored().detach()
            for i, channel in enumerate(part.channels.tolist()):
                expected = total[i] if kept[channel] else 0 * total[i]
                assert torch.equal(z_now[i], expected)
            torch.testing.assert_close(u_now, u_old + w - z_now)
    assert pruner.mask.all(), 'alive until the round ends'


def test_one_group_is_projected_exactly(net, conv, images):
    """No other network within the budget is nearer, of all of them."""
    model = net(lambda m, x: m.b(m.a(x).relu()), a=conv(3, 7), b=conv(7, 4))
    pruner = attach(model.float(), images, method='admm', normalisation='none')
    pruner.begin({'flops': 0.6}, 30)
    method, budget = pruner.method, pruner.budget({'flops': 0.6})
    found = method.project(pruner, method.weights(), 3, pruner.mask)
    masks = [
        torch.tensor(mask)
        for mask in itertools.product([False, True], repeat=7)
    ]
    fitting = [m for m in masks if budget.used(m.double()) <= 1]
    nearest = min(fitting, key=lambda mask: distance(pruner, mask))
    assert found.tolist() == nearest.tolist()
    assert found.sum() == 4


def test_protected_channels_are_not_pulled_to_zero(model, images):
    pruner = attach(
        model, images, method='admm', protect=0.25, normalisation='none'
    )
    pruner.begin({'flops': 0.5}, 12)
    method = pruner.method
    # The smaller the norm, the more the loss would rise.
    norms = method.importance(pruner, method.weights(), pruner.mask)
    state = torch.cat([1 / norms, torch.ones(1)])
    bare = method.project(pruner, method.weights(), 3, pruner.mask)
    pruner.harm.state.copy_(state)
    spared = pruner.protected
    assert not bare[spared].all()
    found = method.project(pruner, method.weights(), 3, pruner.mask)
    assert found[spared].all()
    assert pruner.budget({'flops': 0.5}).used(found.double()) <= 1
    # Those that former rounds have cut stay so.
    last = spared.nonzero()[-1]
    living = pruner.mask.index_fill(0, last, False)
    again = method.project(pruner, method.weights(), 3, living)
    assert again.sum() >= found.sum() - 1
    assert not again[last]


def test_several_groups_are_projected_nearly_exactly(begun):
    """Against all numbers of kept channels, of each group the largest."""
    pruner = begun(cost='divide', rounds=1)
    method, budget = pruner.method, pruner.budget({'flops': 0.5})
    for part in method.parts:
        with torch.no_grad():
            part.stored().normal_()
    found = method.project(pruner, method.weights(), 1, pruner.mask)
    norms = method._energies(method.weights(), pruner).split(pruner.sizes)
    whole = float(sum(part.sum() for part in norms))
    # What the largest 1, 2, ... of a group have together.
    have = [part.sort(descending=True).values.cumsum(0) for part in norms]
    most = 0.0
    for a, b, c in itertools.product(range(8), range(12), range(16)):
        x, y, z = a + 1, b + 1, c + 1
        # 3 x + x y + y z + 5 z of 8, 12 and 16 channels are 392.
        if 3 * x + x * y + y * z + 5 * z <= 196:
            most = max(most, float(have[0][a] + have[1][b] + have[2][c]))
    assert budget.used(found.double()) <= 1
    gap = distance(pruner, found) - (whole - most)
    assert -1e-3 <= gap < 0.07 * whole
    for mask, part in zip(found.split(pruner.sizes), norms, strict=True):
        assert part[mask].min() > part[~mask].max()


def test_rounds_fall_by_equal_factors_and_bring_nothing_back(
    model, images, begun
):
    pruner = begun(steps=12, target=0.3, rounds=3, updates=2)
    before, ratios = pruner.mask, []
    for step in range(1, 13):
        train(model, images, 1)
        # The budget at the end of the phase may fill up with anything.
        assert step == 12 or not (pruner.mask & ~before).any()
        if step in (4, 8, 12):
            ratios.append(pruner.ratios()['flops'])
            assert not torch.equal(pruner.mask, before)
        else:
            assert torch.equal(pruner.mask, before)
        if step in (4, 8):
            assert all(not u.any() for u in pruner.method.u)
            expected = pruner.method.project(
                pruner, pruner.method.weights(), step // 4 + 1, pruner.mask
            )
            for part, z in zip(
                pruner.method.parts, pruner.method.z, strict=True
            ):
                w = part.stored().detach()
                assert torch.equal(z, part.gated(w, expected))
        before = pruner.mask
    targets = [0.3 ** (number / 3) for number in (1, 2, 3)]
    for ratio, target in zip(ratios, targets, strict=True):
        assert target - 0.05 < ratio <= target
    assert pruner.phase == Phase.FINISHED


def test_what_was_cut_does_not_compete_any_more(model, images, begun):
    """However large its weights are."""
    pruner = begun(steps=12, rounds=2, updates=3)
    method = pruner.method
    train(model, images, 6)
    cut = ~pruner.mask
    assert cut.any()
    with torch.no_grad():
        for part in method.parts:
            part.stored().add_(part.gated(100 * part.stored(), cut))
    order = method.ranking(pruner)
    assert order[cut].max() < order[~cut].min()
    train(model, images, 5)
    assert not (pruner.mask & cut).any()


def test_the_pull_brings_condemned_channels_to_zero(model, images, begun):
    pruner = begun(
        steps=60, rounds=1, updates=4, rho=10.0, normalisation='mean'
    )
    method = pruner.method
    first = method.by_group(pruner)['residual']
    train(model, images, 59)
    assert (method.by_group(pruner)['residual'] < 0.2 * first).all()
    kept = method.project(pruner, method.weights(), 1, pruner.mask)
    weights = method._energies(method.weights(), pruner)
    assert weights[~kept].max() < 0.05 * weights[kept].min()
    train(model, images, 1)
    assert torch.equal(pruner.mask, kept)


def test_residual_of_a_group_is_that_of_its_tensors(model, images, begun):
    pruner = begun()
    train(model, images, 3)
    method = pruner.method
    # Filters and bias of the first layer alone are in the first group.
    pairs = list(zip(method.weights(), method.z, strict=True))[:2]
    assert [len(w) for w, _ in pairs] == [8, 8]
    apart = sum(float((w - z).detach().square().sum()) for w, z in pairs)
    whole = sum(float(w.detach().square().sum()) for w, _ in pairs)
    expected = (apart / whole) ** 0.5
    found = method.by_group(pruner)['residual']
    assert float(found[0]) == pytest.approx(expected)


@pytest.mark.parametrize('cost', list(COST_TERMS))
def test_costs_weigh_the_norms(begun, cost):
    pruner = begun(cost=cost, normalisation='mean')
    method = pruner.method
    norms = method._energies(method.weights(), pruner).float()
    parts = norms.split(pruner.sizes)
    relative = torch.cat([part / part.mean() for part in parts])
    found = method.ranking(pruner)
    expected = COST_TERMS[cost](pruner, relative)
    torch.testing.assert_close(found, expected)


def test_floors_and_divisors_hold_in_the_projection(model, images):
    pruner = attach(model, images, method='admm', divisor=4, min_keep=0.5)
    pruner.begin({'flops': 0.4}, 30)
    method = pruner.method
    kept = method.project(pruner, method.weights(), 3, pruner.mask)
    counts = [int(part.sum()) for part in kept.split(pruner.sizes)]
    assert all(count % 4 == 0 for count in counts)
    assert counts >= [4, 6, 8]


def test_narrowing_drops_z_and_u(model, images, begun):
    pruner = begun(steps=4, rounds=1, updates=2)
    train(model, images, 4)
    assert any('method.u' in name for name in model.state_dict())
    narrow(model, pruner.plan())
    assert not [name for name in model.state_dict() if 'pruner' in name]


def test_parameters_in_half_precision_gather_in_single(model, images):
    pruner = attach(model, images, method='admm')
    model.bfloat16()
    method = pruner.method
    assert {t.dtype for t in (*method.z, *method.u)} == {torch.float32}
    pruner.begin({'flops': 0.5}, 30)
    pruner.loss().backward()
    assert method.parts[0].stored().grad.dtype == torch.bfloat16


def test_a_scaled_loss_pulls_as_much(model, images, begun):
    """Half of two backwards, as with accumulation of gradients."""
    pruner = begun(rho=0.2)
    pruner.loss().backward()
    weight = pruner.method.parts[0].stored()
    expected, weight.grad = weight.grad, None
    for _ in range(2):
        (0.5 * pruner.loss()).backward()
    torch.testing.assert_close(weight.grad, expected)
    pruner.step()
    assert pruner.progress.done == 1


class Blind(torch.optim.SGD):
    """Walks at random, whatever the gradient says."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group['params']:
                p.data.add_(1e-3 * torch.randn_like(p))


@pytest.mark.parametrize('how', ['no loss', 'no backward', 'no gradient'])
def test_a_pull_that_reaches_no_weight_is_named(model, images, begun, how):
    pruner = begun()
    before = copies([*pruner.method.z, *pruner.method.u])
    optimizer = Blind(model.parameters(), 0.1)
    with torch.set_grad_enabled(how != 'no gradient'):
        loss = model(images).square().mean()
        if how != 'no loss':
            loss = loss + pruner.loss()
    if how == 'no loss':
        loss.backward()
    optimizer.step()
    for _ in range(2):
        with pytest.raises(PruningError, match=r'Add\s+pruner.loss\(\)'):
            pruner.step()
    assert pruner.progress.done == 0
    now = [*pruner.method.z, *pruner.method.u]
    assert all(map(torch.equal, before, now))
    train(model, images, 1)
    assert pruner.progress.done == 1


@pytest.mark.parametrize(
    ('known', 'rate', 'still'), [(10, 0.1, 0), (5, 0.1, 2), (10, 0.0, 6)]
)
def test_an_optimizer_that_does_not_follow_the_pull(
    model, images, begun, known, rate, still
):
    """It has the first weights alone, or a rate of zero.

    The shift of the norm is zero, to which nothing has to pull it.
    """
    pruner = begun(steps=4, rounds=1, updates=2)
    chosen = list(model.parameters())[:known]
    optimizer = torch.optim.SGD(chosen, rate)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        for _ in range(4):
            loss = model(images).square().mean() + pruner.loss()
            loss.backward()
            optimizer.step()
            pruner.step()
    texts = [str(w.message) for w in found if w.category is PruningWarning]
    said = [t for t in texts if f'{still} of 7 parameters' in t]
    assert bool(said) == bool(still)
    assert not any('did not move' in t for t in texts if t not in said)
    assert pruner.phase == Phase.FINISHED


def test_a_new_phase_knows_nothing_of_what_moved_before(model, images, begun):
    pruner = begun(steps=4, rounds=1, updates=2)
    train(model, images, 4)
    pruner.reset()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        pruner.begin({'flops': 0.5}, 12)
    assert not [w for w in found if 'did not move' in str(w.message)]


def test_an_optimizer_that_asks_for_the_loss_again(model, images, begun):
    """A closure has the pull in it, too."""
    pruner = begun(steps=4, rounds=1, updates=2, rho=0.01)
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = model(images).square().mean() + pruner.loss()
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
        pruner.step()
    assert 0.4 < pruner.ratios()['flops'] <= 0.5


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('rho', 0),
        ('rho', -1.0),
        ('rounds', 0),
        ('rounds', 1.5),
        ('updates', 0),
        ('updates', True),
    ],
)
def test_settings_outside_their_range(model, images, name, value):
    method = dict(type='admm', **{name: value})
    with pytest.raises(PruningError, match=f'admm {name}={value!r}: expec'):
        attach(model, images, method=method)


def test_a_phase_that_is_too_short_for_its_updates(model, images):
    pruner = attach(model, images, method='admm')
    text = 'rounds=3, updates=4: a phase of 11 steps has no room for 12'
    with pytest.raises(PruningError, match=text):
        pruner.begin({'flops': 0.5}, 11)
    assert pruner.phase == Phase.DENSE
    pruner.begin({'flops': 0.5}, 12)


@pytest.mark.parametrize('score', ['l1', 'taylor'])
def test_a_score_that_would_not_decide(model, images, score):
    with pytest.raises(PruningError, match='admm ranks by the norms of W'):
        attach(model, images, method='admm', score=score)
    assert not hasattr(model, 'pruner')


def test_norms_below_zero_are_not_weighed(model, images):
    method = dict(type='admm', cost='divide')
    with pytest.raises(PruningError, match="admm cost='divide'"):
        attach(model, images, method=method, normalisation='std')
