# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError, Score, attach
from mmlapp.core.criteria import Calibration
from mmlapp.core.criteria.collect import check_names, collect_scores
from mmlapp.core.score import SCORES
from mmlapp.core.score.weights import l1, l2


@pytest.fixture
def runs(model, images, pruner):
    """Two batches of logits, and of a loss."""

    def batches(count, outputs):
        for part in images.chunk(count):
            yield (
                lambda part=part: (
                    model(part).mean((2, 3))
                    if outputs
                    else model(part).square().sum()
                )
            )

    return Calibration(2, batches)


@pytest.fixture
def own_scores(monkeypatch):
    """Without what other tests have registered."""
    names = ['l1', 'fpgm', 'taylor', 'functionality', 'kl_divergence']
    monkeypatch.setattr(SCORES, '_entries', {n: SCORES[n] for n in names})


@pytest.fixture
def collect(model, pruner):
    def run(names, calibration=None, normalisation='none'):
        return collect_scores(
            model, names, normalisation, calibration, lambda text: None
        )

    return run


def test_values_are_those_of_the_weights(model, collect):
    found = collect(['l1', 'l2'])
    for name, score in (('l1', l1), ('l2', l2)):
        expected = [
            score(type('Layer', (), {'filters': la.weight.flatten(1)}))
            for la in (model.a, model.b, model.c)
        ]
        assert torch.allclose(found.values[name], torch.cat(expected).double())


def test_the_order_is_normalised(collect):
    found = collect(['l2'], normalisation='rank')
    first = found.order['l2'][:8]
    assert first.sort().values.tolist() == [(k + 0.5) / 8 for k in range(8)]
    ranks = found.values['l2'][:8].argsort()
    assert torch.equal(first.argsort(), ranks)


def test_taylor_is_the_mean_of_squared_gradients(
    model, pruner, images, collect, runs
):
    found = collect(['taylor'], runs).values['taylor']
    model.eval()
    expected = torch.zeros(36)
    for part in images.chunk(2):
        # What the loss loses by a channel, by hand: scale all that emits it.
        for size, start, emit in ((8, 0, [model.a]), (16, 20, [model.c])):
            factor = torch.ones(size, requires_grad=True)
            hooks = [
                layer.register_forward_hook(
                    lambda m, x, y, f=factor: y * f[:, None, None]
                )
                for layer in emit
            ]
            loss = model(part).square().sum()
            expected[start : start + size] += (
                torch.autograd.grad(loss, factor)[0].square() / 2
            )
            hooks[0].remove()
    for part in (slice(0, 8), slice(20, 36)):
        assert torch.allclose(
            found[part].float(), expected[part], rtol=1e-3, atol=1e-6
        )


def test_all_scores_come_with_batches_and_nothing_changes(
    model, pruner, collect, runs
):
    model.train()
    model.a.weight.grad = torch.ones_like(model.a.weight)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = collect(['taylor', 'kl_divergence', 'functionality'], runs)
    assert not found.left_out
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert model.training
    assert model.norm.training
    assert torch.equal(model.a.weight.grad, torch.ones_like(model.a.weight))
    assert not pruner.gate.requires_grad
    assert pruner.gate.grad is None


def test_without_batches_they_are_left_out_with_the_reason(
    collect, own_scores
):
    found = collect(None)
    assert list(found.values) == ['l1', 'fpgm']
    for name in ('taylor', 'kl_divergence', 'functionality'):
        assert name not in found.values
        assert '--batches N' in found.left_out[name]


def test_one_that_was_named_and_needs_batches_is_refused(collect):
    with pytest.raises(PruningError, match=r'score=taylor: .*--batches N'):
        collect(['l1', 'taylor'])


def test_one_that_knows_whole_channels_alone_looks_at_no_batch(model, images):
    attach(model, images, unit='stripes')

    def batches(count, outputs):
        pytest.fail('it was shown one')

    with pytest.raises(PruningError, match=r'^score=functionality: .*stripes'):
        collect_scores(
            model,
            ['functionality'],
            'none',
            Calibration(1, batches),
            lambda text: None,
        )


def test_one_that_does_not_fit_the_network_is_left_out(
    collect, own_scores, model, images
):
    maps = Calibration(1, lambda count, outputs: [lambda: model(images)])
    found = collect(None, maps)
    assert 'logits of a classifier' in found.left_out['kl_divergence']
    assert 'functionality' in found.values


def test_batches_without_a_gradient_are_named(collect):
    nothing = Calibration(1, lambda count, outputs: [lambda: torch.ones(2)])
    with pytest.raises(
        PruningError, match=r'^score=taylor: what .*no gradient'
    ):
        collect(['taylor'], nothing)


def test_the_score_that_asks_for_gradients_is_named(collect, monkeypatch):
    """Whichever it is, and once."""
    entries = {**SCORES._entries, 'mine': SCORES['taylor']}
    monkeypatch.setattr(SCORES, '_entries', entries)
    nothing = Calibration(1, lambda count, outputs: [lambda: torch.ones(2)])
    with pytest.raises(PruningError) as info:
        collect(['mine'], nothing)
    assert str(info.value).startswith('score=mine: what a calibration batch')


def test_a_score_that_asks_for_batches_and_gradients(
    collect, model, pruner, runs, monkeypatch
):
    """It gets both, as in a phase."""

    class Both(Score):
        batches, uses_gradient = 1, True

        def prepare(self, model, layers, batches):
            self.shown = sum(run().dim() == 0 for run in batches)

        def __call__(self, context):
            return self.shown * context.harm

    entries = {**SCORES._entries, 'both': Both}
    monkeypatch.setattr(SCORES, '_entries', entries)
    found = collect(['both', 'taylor'], runs).values
    torch.testing.assert_close(found['both'], 2 * found['taylor'])


def test_scores_that_are_not_finite_are_refused(collect, model):
    with torch.no_grad():
        model.b.weight[0] = torch.inf
    with pytest.raises(PruningError, match=r'l1: .*not finite.*diverged'):
        collect(['l1'])


@pytest.mark.parametrize(
    ('names', 'text'),
    [
        ('l1', r"scores='l1': expected a list"),
        ([], r'scores=\[\]: expected a list'),
        (['l1', 'l9'], r"score='l9' is unknown; choose one of: .*bn_scale"),
        (['l1', 'l1'], 'l1 comes twice. Leave it there once'),
    ],
)
def test_names_that_cannot_be(names, text):
    with pytest.raises(PruningError, match=text):
        check_names(names)
