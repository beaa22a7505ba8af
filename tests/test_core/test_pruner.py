# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Thresholds: where they start, what moves them, where they end."""

import copy

import pytest
import torch
from torch import nn

from mmlapp.core import Bypass, PruningError, attach
from mmlapp.core.methods.lapp.surrogates import SURROGATES
from mmlapp.core.pruner_state import DENSE, FINISHED, PRUNING
from mmlapp.core.score.scores import NORMALISATIONS


@pytest.fixture
def make(net, conv):
    """With a norm, without one, and a last layer that stays."""

    def build():
        return net(
            lambda m, x: m.d(m.c(m.norm(m.b(m.a(x).relu())).relu()).relu()),
            a=conv(3, 8),
            b=conv(8, 12),
            norm=nn.BatchNorm2d(12),
            c=conv(12, 16),
            d=conv(16, 5),
        ).float()

    return build


@pytest.fixture
def model(make):
    return make()


@pytest.fixture
def images():
    return torch.randn(4, 3, 8, 8)


@pytest.fixture
def lapp(model, images):
    return attach(model, images)


def parameter(model, name):
    """As it is stored: through its module it is read masked."""
    return dict(model.named_parameters())[name]


def task_loss(model, images):
    return model(images).square().mean()


def train(model, images, steps, with_flops=True):
    lapp = model.lapp
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(steps):
        loss = task_loss(model, images)
        if with_flops:
            loss = loss + lapp.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lapp.step()


def kept_by_group(lapp):
    return [
        int(part.sum())
        for part in lapp.mask[:-1].split([i.size for i in lapp.groups])
    ]


def test_phases(model, images, lapp):
    assert (lapp.phase, lapp.target, lapp.ratio) == (DENSE, 1, 1)
    lapp.begin(0.5, steps=6)
    assert (lapp.phase, lapp.target, lapp.ratio) == (PRUNING, 1, 1)
    train(model, images, 5)
    assert lapp.phase == PRUNING
    assert lapp.target == pytest.approx(0.5)
    train(model, images, 1)
    assert lapp.phase == FINISHED
    assert 0.4 < lapp.ratio <= 0.5


def test_nothing_is_pruned_at_the_beginning(lapp):
    lapp.begin(0.5, 10)
    assert lapp.mask.all()
    assert set(lapp.keep_ratios().values()) == {1}


def test_a_dense_network_computes_as_before(model, images):
    expected = model(images)
    attach(model, images)
    assert torch.equal(model(images), expected)


def test_masks_are_scores_above_thresholds(model, images, lapp):
    lapp.begin(0.5, 20)
    train(model, images, 10)
    above = lapp.scores > lapp.threshold[lapp.group[:-1]]
    assert torch.equal(lapp.mask[:-1], above)
    assert lapp.mask[-1]


def test_the_task_loss_alone_reaches_every_threshold(model, images, lapp):
    lapp.begin(0.5, 10)
    task_loss(model, images).backward()
    assert (lapp.threshold.grad != 0).all()
    assert (lapp.gate.grad[:-1] != 0).any()


def test_the_flops_loss_alone_reaches_every_threshold(lapp):
    lapp.begin(0.5, 10)
    lapp.progress[1] = 8
    lapp.loss().backward()
    # a higher threshold costs fewer FLOPs
    assert (lapp.threshold.grad < 0).all()
    assert lapp.gate.grad is None


def test_the_flops_loss_leaves_the_weights_alone(model, lapp):
    lapp.begin(0.5, 10)
    lapp.progress[1] = 8
    lapp.loss().backward()
    assert all(p.grad is None for p in model.parameters())


def test_the_gate_sees_the_task_loss_only(model, images, lapp):
    """And holds what the thresholds' gradient is made of."""
    lapp.begin(0.5, 10)
    lapp.progress[1] = 8
    task_loss(model, images).backward()
    task = lapp.threshold.grad.clone()
    gate = lapp.gate.grad.clone()
    expected = torch.zeros(len(lapp.groups)).index_add(
        0, lapp.group, -lapp.slope * gate
    )
    torch.testing.assert_close(task, expected)
    lapp.loss().backward()
    assert (lapp.threshold.grad != task).all()
    assert torch.equal(lapp.gate.grad, gate)


def test_gradient_of_the_flops_loss_by_hand(lapp):
    """The chain: penalty, ratio, table, mask, surrogate."""
    lapp.begin(0.5, 10)
    lapp.progress[1] = 8
    lapp.loss().backward()
    mask = lapp.mask[:-1].double().requires_grad_()
    ratio = lapp.flops(mask) / lapp.dense_flops
    (by_mask,) = torch.autograd.grad(ratio, mask)
    # far from the target the penalty is |log ratio|
    by_channel = -by_mask / ratio.detach() * lapp.slope[:-1]
    expected = torch.zeros(3).double()
    expected.index_add_(0, lapp.group[:-1], by_channel)
    torch.testing.assert_close(lapp.threshold.grad, expected.float())


def test_outside_the_phase_the_loss_is_zero(lapp):
    assert lapp.loss().item() == 0
    lapp.begin(0.5, 1)
    lapp.step()
    assert lapp.phase == FINISHED
    assert lapp.loss().item() == 0


def test_the_loss_vanishes_at_the_target(lapp):
    lapp.begin(0.5, 10)
    assert lapp.loss().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('normalisation', list(NORMALISATIONS))
@pytest.mark.parametrize('surrogate', list(SURROGATES))
@pytest.mark.parametrize('value', [100.0, -100.0])
@pytest.mark.parametrize('scale', [1e-3, 1.0, 1e3])
def test_a_threshold_far_outside_comes_back(
    model, images, surrogate, value, normalisation, scale
):
    """Every group has a slope again: both losses can move it."""
    with torch.no_grad():
        for name in 'abcd':
            getattr(model, name).weight.mul_(scale)
    lapp = attach(
        model, images, surrogate=surrogate, normalisation=normalisation
    )
    lapp.begin(0.5, 10)
    with torch.no_grad():
        lapp.threshold.fill_(value)
    lapp.refresh()
    for slope in lapp.slope[:-1].split([i.size for i in lapp.groups]):
        assert (slope > 0).any()
    lapp.progress[1] = 8
    lapp.loss().backward()
    assert (lapp.threshold.grad != 0).all()


@pytest.mark.parametrize('surrogate', list(SURROGATES))
def test_a_stuck_threshold_is_moved_by_training(model, images, surrogate):
    lapp = attach(model, images, surrogate=surrogate)
    lapp.begin(0.5, 200)
    with torch.no_grad():
        lapp.threshold.fill_(-100)
    lapp.progress[1] = 160
    train(model, images, 30)
    assert lapp.ratio < 0.9


@pytest.mark.parametrize('value', [100.0, 0.999])
def test_a_narrowed_layer_keeps_its_best_channel(lapp, value):
    lapp.begin(0.5, 10)
    with torch.no_grad():
        lapp.threshold.fill_(value)
    lapp.refresh()
    assert kept_by_group(lapp) == [1, 1, 1]
    sizes = [i.size for i in lapp.groups]
    for scores, mask in zip(
        lapp.scores.split(sizes), lapp.mask[:-1].split(sizes), strict=True
    ):
        assert scores.argmax() == mask.int().argmax()


def test_a_layer_with_a_bypass_may_lose_all(model, images):
    lapp = attach(model, images, bypass=Bypass('depthwise', 'fill'))
    lapp.begin(0.5, 10)
    with torch.no_grad():
        lapp.threshold.fill_(100)
    lapp.refresh()
    assert set(kept_by_group(lapp)) == {0}
    assert model(images).isfinite().all()


@pytest.mark.parametrize('normalisation', list(NORMALISATIONS))
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('name', ['a', 'c'])
def test_weights_that_are_not_finite(
    model, images, normalisation, value, name
):
    lapp = attach(model, images, normalisation=normalisation)
    lapp.begin(0.5, 10)
    train(model, images, 3)
    before = lapp.mask.clone()
    with torch.no_grad():
        parameter(model, f'{name}.weight')[2, 0, 1, 1] = value
    with pytest.raises(
        PruningError,
        match=rf'scores of {name} are not finite \(its weights are not '
        r'finite\) at step 4.*diverged',
    ):
        lapp.step()
    assert torch.equal(lapp.mask, before)


def test_a_score_that_is_not_finite(model, images):
    lapp = attach(model, images, score='taylor')
    lapp.begin(0.5, 10)
    task_loss(model, images).backward()
    parameter(model, 'b.weight').grad[0] = float('nan')
    with pytest.raises(
        PruningError, match=r'scores of b are not finite \(its weights are f'
    ):
        lapp.step()


def test_weights_that_are_not_finite_at_the_beginning(model, images, lapp):
    with torch.no_grad():
        parameter(model, 'b.weight').fill_(float('nan'))
    with pytest.raises(PruningError, match='scores of b are not finite'):
        lapp.begin(0.5, 10)


@pytest.mark.parametrize('target', [0, -1, 1.5, float('nan')])
def test_targets_outside_their_range(lapp, target):
    with pytest.raises(PruningError, match=r'target_flops=.*\(0, 1\]'):
        lapp.begin(target, 10)
    assert lapp.phase == DENSE


def test_a_target_below_the_reachable_minimum(lapp):
    """One channel in each of a, b and c."""
    positions = 4 * 8 * 8
    lowest = 9 * positions * (3 + 1 + 1 + 5) / lapp.dense_flops
    with pytest.raises(
        PruningError, match=f'minimum of {lowest:.4f}.*Raise the target'
    ):
        lapp.begin(lowest * 0.9, 10)
    assert lapp.phase == DENSE
    lapp.begin(lowest * 1.0001, 10)
    lapp.finish()
    assert kept_by_group(lapp) == [1, 1, 1]


def test_a_divisor_at_the_end_of_the_phase(model, images):
    lapp = attach(model, images, divisor=4)
    lapp.begin(0.6, 1)
    lapp.step()
    kept = [int(part.sum()) for part in lapp.mask[:-1].split([8, 12, 16])]
    assert lapp.ratio <= 0.6
    assert all(count % 4 == 0 for count in kept)
    assert sum(kept) < 36


def test_the_minimum_with_a_divisor(model, images):
    lapp = attach(model, images, divisor=8)
    with pytest.raises(PruningError, match='reachable minimum'):
        lapp.begin(0.2, 10)  # single channels would reach less than 0.1


@pytest.mark.parametrize('divisor', [0, -8, 2.0, '8'])
def test_a_divisor_out_of_range(model, images, divisor):
    with pytest.raises(PruningError, match=f'divisor={divisor!r}'):
        attach(model, images, divisor=divisor)


def test_a_phase_without_steps(lapp):
    with pytest.raises(PruningError, match='steps=0'):
        lapp.begin(0.5, 0)
    assert lapp.phase == DENSE


def test_finish_before_begin(lapp):
    with pytest.raises(PruningError, match='has not begun'):
        lapp.finish()


@pytest.mark.parametrize('target', [1.0, 0.8, 0.45, 0.2])
def test_the_budget_is_kept(model, images, lapp, target):
    lapp.begin(target, 12)
    train(model, images, 12)
    assert target - 0.05 < lapp.ratio <= target


def test_after_the_phase_masks_stay(model, images, lapp):
    lapp.begin(0.5, 4)
    train(model, images, 4)
    before = lapp.mask.clone(), lapp.threshold.detach().clone()
    train(model, images, 5)
    assert torch.equal(lapp.mask, before[0])
    assert torch.equal(lapp.threshold, before[1])


def test_removed_channels_get_no_gradient(model, images, lapp):
    lapp.begin(0.3, 1)
    lapp.step()
    task_loss(model, images).backward()
    weight = parameter(model, 'c.weight')
    sizes = [i.size for i in lapp.groups]
    kept = lapp.mask[:-1].split(sizes)[2]
    gradient = weight.grad.flatten(1).abs().sum(1)
    assert (gradient[~kept] == 0).all()
    assert (gradient[kept] > 0).any()


def test_without_gradients_thresholds_rest(model, images, lapp):
    """At the target, and no task loss: nothing pulls."""
    lapp.begin(1.0, 10)
    before = lapp.threshold.detach().clone()
    lapp.loss().backward()
    lapp.step()
    assert torch.equal(lapp.threshold, before)


def test_gradients_do_not_pile_up(model, images, lapp):
    lapp.begin(0.5, 10)
    train(model, images, 2)
    assert lapp.threshold.grad is None
    assert lapp.gate.grad is None


@pytest.mark.parametrize('stepped', [True, False])
def test_what_came_before_the_phase_is_forgotten(model, images, lapp, stepped):
    twin = copy.deepcopy(model)
    for _ in range(3):
        task_loss(model, images).backward()
        if stepped:
            lapp.step()
    for network in (model, twin):
        network.lapp.begin(0.5, 10)
        task_loss(network, images).backward()
    assert torch.equal(lapp.gate.grad, twin.lapp.gate.grad)


@pytest.mark.parametrize('scale', [2.0**10, 2.0**-4])
def test_the_scale_of_the_losses_is_taken_out(model, images, scale):
    found = []
    for factor in (1.0, scale):
        copied = copy.deepcopy(model)
        lapp = attach(copied, images)
        lapp.begin(0.5, 10)
        lapp.progress[1] = 5
        loss = task_loss(copied, images) + lapp.loss()
        (loss * factor).backward()
        lapp.step(loss_scale=factor)
        found.append((lapp.threshold.detach(), lapp.state))
    torch.testing.assert_close(*found)


def test_overflown_gradients_move_nothing(model, images, lapp):
    """As a gradient scaler skips the optimizer's step."""
    lapp.begin(0.5, 10)
    before = lapp.threshold.detach().clone(), lapp.state.clone()
    task_loss(model, images).backward()
    lapp.gate.grad[0] = float('inf')
    lapp.step()
    assert torch.equal(lapp.threshold, before[0])
    assert torch.equal(lapp.state, before[1])
    assert lapp.threshold.grad is None
    assert lapp.gate.grad is None


def test_a_state_dict_continues_the_run(make, model, images, lapp):
    lapp.begin(0.4, 12)
    train(model, images, 6)
    fresh = make()
    attach(fresh, images)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(images), model(images))
    for network in (model, fresh):
        train(network, images, 6)
    assert torch.equal(fresh.lapp.threshold, lapp.threshold)
    assert torch.equal(fresh.lapp.mask, lapp.mask)
    assert torch.equal(fresh.lapp.state, lapp.state)
    assert fresh.lapp.phase == FINISHED


def test_dense_weights_do_not_activate_the_masks(make, model, lapp):
    """So that layers can still be initialised after they were loaded."""
    model.load_state_dict(make().state_dict(), strict=False)
    nn.init.zeros_(model.a.weight)
    assert (parameter(model, 'a.weight') == 0).all()


@pytest.mark.parametrize('move', ['double', 'half', 'bfloat16', 'float'])
def test_thresholds_learn_after_the_network_changed_its_type(
    model, images, lapp, move
):
    lapp.begin(0.5, 20)
    train(model, images, 4)
    before = lapp.threshold.detach().clone(), lapp.ratio
    getattr(model, move)()
    assert lapp.threshold.is_leaf
    assert lapp.threshold.requires_grad
    assert torch.equal(lapp.threshold, before[0])
    assert lapp.ratio == before[1]
    assert lapp.progress.dtype == torch.float64
    dtype = parameter(model, 'a.weight').dtype
    task_loss(model, images.to(dtype)).backward()
    assert (lapp.threshold.grad != 0).any()
    lapp.step()
    assert (lapp.threshold != before[0]).any()


def test_thresholds_move_with_the_network(model, lapp):
    model.to('meta')
    assert {b.device.type for b in lapp.buffers()} == {'meta'}
    assert lapp.threshold.is_leaf
    model.to_empty(device='cpu')
    assert {b.device.type for b in lapp.buffers()} == {'cpu'}
    assert lapp.threshold.is_leaf
    assert lapp.threshold.requires_grad


def test_masks_survive_another_memory_format(model, images, lapp):
    lapp.begin(0.5, 1)
    lapp.step()
    expected = model(images)
    model.to(memory_format=torch.channels_last)
    found = model(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
    assert lapp.phase == FINISHED


def test_scores_are_those_of_the_live_weights(model, images):
    """Mean over the layers of a group, each divided by its mean."""
    lapp = attach(model, images, score='l1', normalisation='mean')
    lapp.begin(0.5, 10)
    start = 0
    for info in lapp.groups:
        weight = parameter(model, f'{info.name}.weight').detach()
        raw = weight.abs().flatten(1).sum(1)
        found = lapp.scores[start : start + info.size]
        torch.testing.assert_close(found, raw / raw.mean())
        start += info.size


def test_scores_of_tied_layers_are_averaged(net, conv, image):
    model = net(
        lambda m, x: m.c(m.a(x) + m.b(x)),
        a=conv(3, 8),
        b=conv(3, 8),
        c=conv(8, 5),
    )
    lapp = attach(model, image, score='l2', normalisation='rank')
    lapp.begin(0.5, 10)
    ranks = []
    for name in 'ab':
        norms = parameter(model, f'{name}.weight').flatten(1).norm(dim=1)
        ranks.append((norms.argsort().argsort() + 0.5) / 8)
    order = sum(ranks).argsort(stable=True)
    assert torch.equal(lapp.scores[: lapp.total].argsort(), order)


@pytest.mark.parametrize('layers', [1, 6])
def test_a_threshold_is_the_pruning_ratio(net, conv, image, layers):
    """However many layers share the group."""
    names = [f'x{i}' for i in range(layers)]
    model = net(
        lambda m, x: m.c(sum(getattr(m, n)(x) for n in names)),
        c=conv(16, 5),
        **{n: conv(3, 16) for n in names},
    )
    lapp = attach(model, image, score='l2', normalisation='rank')
    lapp.begin(0.5, 10)
    for ratio in (0.25, 0.5, 0.75):
        with torch.no_grad():
            lapp.threshold.fill_(ratio)
        lapp.refresh()
        assert kept_by_group(lapp) == [16 * (1 - ratio)]


def test_scores_ignore_the_mask(model, images, lapp):
    lapp.begin(0.3, 1)
    before = lapp.scores.clone()
    lapp.step()
    assert not lapp.mask.all()
    lapp.refresh()
    assert torch.equal(lapp.scores, before)


def test_progress_is_read_without_asking_the_device(model, lapp):
    lapp.begin(0.5, 20)
    lapp.progress[1] = 7
    model.to('meta')  # where nothing can be read
    assert lapp.phase == PRUNING
    assert lapp.progress.tolist() == [PRUNING, 7, 20, 0.5]
    assert lapp.target == pytest.approx(0.5 ** (7 / 16))


def test_progress_travels_in_the_state_dict(make, images, model, lapp):
    lapp.begin(0.5, 20)
    lapp.progress[1] = 7
    state = copy.deepcopy(model.state_dict())
    other = make()
    attach(other, images)
    other.load_state_dict(state)
    assert other.lapp.progress.tolist() == [PRUNING, 7, 20, 0.5]
    del state['lapp.progress']
    with pytest.raises(RuntimeError, match=r'Missing key.*lapp\.progress'):
        other.load_state_dict(state)
    other.load_state_dict(state, strict=False)
    assert other.lapp.phase == PRUNING


def test_masks_and_progress_are_taken_over(make, images, model, lapp):
    other = make()
    attach(other, images)
    lapp.begin(0.5, 4)
    train(model, images, 4)
    other.lapp.take_over(lapp)
    assert other.lapp.phase == FINISHED
    assert torch.equal(other.lapp.mask, lapp.mask)
    assert other.lapp.threshold is not lapp.threshold
